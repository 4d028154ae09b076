"""What is measured, and with what: the same tenants, payload and concurrency for both contenders."""

from typing import Final

from msgspec import Struct

from schemas import subjects

IN_FLIGHT: Final = 128
DESTINATION_IN_FLIGHT: Final = 16
TENANTS: Final = tuple(f"tenant-{number}" for number in range(4))
DESTINATIONS: Final = tuple(f"orders-{number}" for number in range(8))
PAYLOAD: Final = b'{"invoice":"in_0000001","amount":129900,"currency":"EUR","lines":[' + b'{"n":1},' * 16 + b'{"n":1}]}'
"""204 bytes; an event with it has some 490."""

PACE_PER_S: Final = 200
PACED_S: Final = 4.0
CALIBRATION_COUNT: Final = 1000
"""Deliveries ahead of the first round, from which its length is guessed."""
WARM_UP_SHARE: Final = 0.1
"""The first deliveries of a round, which open the connections, count for nothing but the checks."""


class Options(Struct, frozen=True):
    """What the command line asks for."""

    rounds: int = 4
    seconds: float = 2.25


class Address(Struct, frozen=True):
    """A destination of a tenant."""

    tenant: str
    destination: str

    @property
    def path(self) -> str:
        """Where the receiver takes it."""
        return f"/{self.tenant}/{self.destination}"


ADDRESSES: Final = tuple(Address(tenant, destination) for destination in DESTINATIONS for tenant in TENANTS)


class Contender(Struct, frozen=True):
    """Who is measured: where its work comes from, and where its results go."""

    name: str
    work: subjects.Stream
    consumer: subjects.Consumer
    results: subjects.Stream

    def requested(self, address: Address) -> str:
        """The subject of a request."""
        return self.work.subjects[0].replace("*.*", f"{address.tenant}.{address.destination}")


PRODUCT: Final = Contender("product", subjects.WORK, subjects.WORK_CONSUMER, subjects.ATTEMPTS)
BARE: Final = Contender(
    "bare loop",
    subjects.Stream(
        name="BENCH_WORK",
        subjects=("bench.delivery.requested.*.*",),
        description="The bare loop's own.",
        retention="workqueue",
        duplicate_window_s=600,
        capped_per_subject=True,
    ),
    subjects.Consumer(stream="BENCH_WORK", name="delivery", filter_subject="bench.delivery.requested.*.*"),
    subjects.Stream(
        name="BENCH_ATTEMPTS",
        subjects=("bench.delivery.attempted.*.*",),
        description="The bare loop's own.",
        duplicate_window_s=600,
    ),
)
