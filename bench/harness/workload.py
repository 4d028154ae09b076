"""The workload: equal tenants, payload and concurrency for every contender."""

from typing import Final, Literal

from msgspec import Struct

from schemas import streams

IN_FLIGHT: Final = 128
DESTINATION_IN_FLIGHT: Final = 16
TENANTS: Final = tuple(f"tenant-{number}" for number in range(4))
DESTINATIONS: Final = tuple(f"orders-{number}" for number in range(8))
PAYLOAD: Final = b'{"invoice":"in_0000001","amount":129900,"currency":"EUR","lines":[' + b'{"n":1},' * 16 + b'{"n":1}]}'
"""204 bytes; an event with it has some 490."""

PACE_PER_S: Final = 200
PACED_S: Final = 3.0
CALIBRATION_COUNT: Final = 1000
"""Deliveries before the first round, from which its number of deliveries is estimated."""
WARM_UP_SHARE: Final = 0.1
"""Share of the first deliveries of a round, which open connections; only the checks count them."""


class Options(Struct, frozen=True):
    """The command-line options."""

    rounds: int = 3
    seconds: float = 1.6
    https: bool = False
    traced: bool = False


class Address(Struct, frozen=True):
    """A destination of a tenant."""

    tenant: str
    destination: str

    @property
    def path(self) -> str:
        """Return the path at the receiver."""
        return f"/{self.tenant}/{self.destination}"


ADDRESSES: Final = tuple(Address(tenant, destination) for destination in DESTINATIONS for tenant in TENANTS)


class Contender(Struct, frozen=True):
    """A measured program: the stream of its work, its consumer, and the stream of its results."""

    name: str
    work: streams.StreamConfig
    consumer: streams.ConsumerConfig
    results: streams.StreamConfig
    http: Literal["aiohttp", "own"] = "own"

    def requested(self, address: Address) -> str:
        """Return the subject of a request."""
        return self.work.subjects[0].replace("*.*", f"{address.tenant}.{address.destination}")


PRODUCT: Final = Contender("product", streams.WORK, streams.WORK_CONSUMER, streams.ATTEMPTS)


def _bare(name: str, stream: str, subject: str, http: Literal["aiohttp", "own"]) -> Contender:
    work, results = f"{stream}_WORK", f"{stream}_ATTEMPTS"
    return Contender(
        name,
        streams.StreamConfig(
            name=work,
            subjects=(f"{subject}.requested.*.*",),
            description="A bare loop's own.",
            retention="workqueue",
            duplicate_window_s=600,
            capped_per_subject=True,
        ),
        streams.ConsumerConfig(stream=work, name="delivery", filter_subject=f"{subject}.requested.*.*"),
        streams.StreamConfig(
            name=results,
            subjects=(f"{subject}.attempted.*.*",),
            description="A bare loop's own.",
            duplicate_window_s=600,
        ),
        http,
    )


BARE: Final = _bare("bare", "BENCH_BARE", "bench.bare", "own")
AIOHTTP: Final = _bare("bare aiohttp", "BENCH_AIOHTTP", "bench.aiohttp", "aiohttp")
CONTENDERS: Final = (PRODUCT, BARE, AIOHTTP)
