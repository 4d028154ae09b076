"""What a run of the peers has found, as JSON and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

from bench.peers.measure import Round
from bench.peers.plan import LACKING, PEERS
from bench.plan import ADDRESSES, IN_FLIGHT

_PRODUCT: Final = "product"


class Measured(Struct, frozen=True):
    """One of them. Medians over the rounds; `times` is its CPU time per delivery / the product's, round by round."""

    per_s: float
    workers_us: float
    broker_us: float
    system_us: float
    times: float
    rounds: tuple[Round, ...]


class Result(Struct, frozen=True):
    """The product and the peers, when everything was delivered. `ratio`: the `times` of the best peer."""

    ratio: float
    best: str
    product: Measured
    peers: Mapping[str, Measured]
    left_out: Mapping[str, str]
    duplicates: int


def compared(
    product: Sequence[Round], peers: Mapping[str, Sequence[Round]], left_out: Mapping[str, str], duplicates: int
) -> Result:
    """Put each peer beside the product."""
    measured = {name: _measured(rounds, product) for name, rounds in peers.items()}
    best = min(measured, key=lambda name: measured[name].times)
    ours = _measured(product, product)
    return Result(measured[best].times, best, ours, measured, left_out, duplicates)


def _measured(rounds: Sequence[Round], product: Sequence[Round]) -> Measured:
    return Measured(
        per_s=median(one.per_s for one in rounds),
        workers_us=median(one.workers_us for one in rounds),
        broker_us=median(one.broker_us for one in rounds),
        system_us=median(one.system_us for one in rounds),
        times=median(one.system_us / ours.system_us for one, ours in zip(rounds, product, strict=True)),
        rounds=tuple(rounds),
    )


def table(result: Result) -> Iterator[str]:
    """Lines for a terminal; the ratio stands alone on the last one."""
    yield f"{IN_FLIGHT} in flight to {len(ADDRESSES)} destinations; medians of {len(result.product.rounds)} rounds"
    yield ""
    yield f"{'':26}{'':>14}{'CPU us per delivery':>30}"
    yield f"{'':26}{'deliveries/s':>14}{'workers':>10}{'broker':>10}{'all':>10}{'/ product':>12}"
    titles = {_PRODUCT: _PRODUCT} | {peer.name: peer.title for peer in PEERS}
    for name, one in {_PRODUCT: result.product, **result.peers}.items():
        cells = f"{one.per_s:14.0f}{one.workers_us:10.0f}{one.broker_us:10.0f}{one.system_us:10.0f}{one.times:12.2f}"
        yield f"{titles[name]:26}{cells}"
    for name, reason in result.left_out.items():
        yield f"{titles[name]:26}left out: {reason}"
    yield ""
    yield from (f"{peer.title}: {peer.how}; {peer.processes}" for peer in PEERS if peer.name in result.peers)
    yield "none of the peers does: " + "; ".join(LACKING)
    yield from (f"nor does {peer.title}: " + "; ".join(peer.lacks) for peer in PEERS if peer.lacks)
    yield ""
    yield f"all delivered, verified and on record; {result.duplicates} came more than once"
    yield f"peers: {result.ratio:.2f}"
