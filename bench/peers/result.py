"""The result of a run of the peers, as JSON and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

from bench.harness.workload import ADDRESSES, IN_FLIGHT, PRODUCT
from bench.peers.measure import Round
from bench.peers.plan import LACKING, PEERS
from bench.peers.proof import COUNT

TITLES: Final = {PRODUCT.name: PRODUCT.name} | {peer.name: peer.title for peer in PEERS}


class Measured(Struct, frozen=True):
    """The result of a peer: medians over the rounds; `times` is CPU per delivery, peer / product, round by round.

    `kept`: the number of 1,000 accepted deliveries that survived kill -9 of the broker.
    """

    per_s: float
    workers_us: float
    broker_us: float
    system_us: float
    times: float
    kept: int
    rounds: tuple[Round, ...]


class Result(Struct, frozen=True):
    """The product and the peers, when everything was delivered.

    `ratio`: the `times` of the best peer that lost nothing when its broker was killed (None: there is none);
    `ratio_any`: of the best of all.
    """

    ratio: float | None
    best: str | None
    ratio_any: float
    best_any: str
    product: Measured
    peers: Mapping[str, Measured]
    left_out: Mapping[str, str]
    duplicates: int


def compared(
    rounds: Mapping[str, Sequence[Round]], kept: Mapping[str, int], left_out: Mapping[str, str], duplicates: int
) -> Result:
    """Put each peer beside the product."""
    ours = rounds[PRODUCT.name]
    measured = {name: _measured(one, ours, kept[name]) for name, one in rounds.items()}
    product = measured.pop(PRODUCT.name)
    best_any = min(measured, key=lambda name: measured[name].times)
    durable = {name: one for name, one in measured.items() if one.kept == COUNT}
    best = min(durable, key=lambda name: durable[name].times) if durable else None
    ratio = measured[best].times if best else None
    return Result(ratio, best, measured[best_any].times, best_any, product, measured, left_out, duplicates)


def _measured(rounds: Sequence[Round], product: Sequence[Round], kept: int) -> Measured:
    return Measured(
        per_s=median(one.per_s for one in rounds),
        workers_us=median(one.workers_us for one in rounds),
        broker_us=median(one.broker_us for one in rounds),
        system_us=median(one.system_us for one in rounds),
        times=median(one.system_us / ours.system_us for one, ours in zip(rounds, product, strict=True)),
        kept=kept,
        rounds=tuple(rounds),
    )


def table(result: Result) -> Iterator[str]:
    """Yield lines for a terminal; the last one holds only the ratio."""
    yield f"{IN_FLIGHT} in flight to {len(ADDRESSES)} destinations; medians of {len(result.product.rounds)} rounds"
    yield ""
    yield f"{'':26}{'':>14}{'CPU us per delivery':>30}{'':12}{f'kept of {COUNT}':>14}"
    yield f"{'':26}{'deliveries/s':>14}{'workers':>10}{'broker':>10}{'all':>10}{'/ product':>12}{'after kill -9':>14}"
    for name, one in {PRODUCT.name: result.product, **result.peers}.items():
        cells = f"{one.per_s:14.0f}{one.workers_us:10.0f}{one.broker_us:10.0f}{one.system_us:10.0f}{one.times:12.2f}"
        yield f"{TITLES[name]:26}{cells}{one.kept:14}"
    for name, reason in result.left_out.items():
        yield f"{TITLES[name]:26}left out: {reason}"
    yield ""
    yield from (f"{peer.title}: {peer.how}; {peer.processes}" for peer in PEERS if peer.name in result.peers)
    yield "none of the peers does by itself: " + "; ".join(LACKING)
    yield from (f"nor does {peer.title}: " + "; ".join(peer.lacks) for peer in PEERS if peer.lacks)
    yield ""
    yield f"all delivered, verified and on record; {result.duplicates} came more than once"
    yield f"peers-any: {result.ratio_any:.2f} ({TITLES[result.best_any]})"
    if result.ratio and result.best:
        yield f"best that keeps what it has accepted: {TITLES[result.best]}"
        yield f"peers: {result.ratio:.2f}"
