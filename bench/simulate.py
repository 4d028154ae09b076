"""`python -m bench.simulate`: how many workers, streams and nodes a load takes, by a model fed with measured costs.

A discrete-event model of one shard: deliveries arrive by chance (Poisson), the streams' servers and the workers' cores
take them in turn, each for its measured CPU time, and receivers answer after a time of their own, in which a delivery
holds a slot and no core. A layout with more shards is so many of these side by side, each with its part of the load:
nothing is shared between streams but the machines below them. What it leaves out, it says (`LEFT_OUT`).
"""

import argparse
import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas import streams

WARM_UP_SHARE: Final = 0.2
COOL_DOWN_SHARE: Final = 0.05
MOST_DELIVERIES: Final = 60_000
"""Deliveries of one shard that are simulated: enough for a p99, within seconds."""
ROOM: Final = 0.6
"""Of what a part can do, how much is planned to be used: what is beyond it queues for long."""
LEFT_OUT: Final = (
    "retries, replays and floods (each is one more delivery)",
    "the garbage collector, and other programs on the machine",
    "disk: with sync_interval at its default it is the page cache that is waited for",
    "network between nodes beyond what the measured R3 rate holds",
)


class Costs(Struct, frozen=True, kw_only=True):
    """Measured costs (`docs/explanation/performance.md`), in CPU microseconds unless the name has another unit."""

    worker_us: float = 125.0
    """A worker per delivery over a connection that is open: the CPU column of `make bench`, archive on."""
    handshake_us: float = 1046.0
    """More for one that opens a TLS connection first."""
    server_us: float = 27.0
    """nats-server per delivery, R1: request, pull, result, its part of a pack, acknowledgement."""
    server_us_r3: float = 81.0
    """The same, all three nodes together. An assumption: each stores what the leader stores."""
    receiver_us: float = 15.0
    """What the bench's own receiver takes per delivery: only where it is on the same machine."""
    r1_per_s: float = 36_000.0
    """What one stream of one replica acknowledges a second to one publisher."""
    r3_per_s: float = 5_250.0
    """What one stream of three replicas acknowledges a second, at 32 in flight, three nodes on two cores."""
    server_cores: float = 2.0
    """Cores of a node that its streams can use."""


MEASURED: Final = Costs()


class Load(Struct, frozen=True, kw_only=True):
    """The load: deliveries and the behaviour of receivers."""

    deliveries_per_s: float
    receiver_ms: float = 50.0
    """The median time in which receivers answer; a lognormal spread around it."""
    receiver_sigma: float = 0.8
    new_connections: float = 0.02
    """Share of deliveries that open a connection: many destinations at a low rate each have many."""


class Layout(Struct, frozen=True, kw_only=True):
    """The deployment. A shard is a set of streams and consumers; shards share the nodes."""

    shards: int = 1
    workers: int = 1
    """Worker processes per shard, a core each."""
    max_in_flight: int = 256
    replicas: int = 1
    nodes: int = 1
    shared_cores: int | None = None
    """Cores that server, workers and receivers share, on one machine; None: each has its own."""


class Outcome(Struct, frozen=True, kw_only=True):
    """The outcome for all shards together."""

    delivered_per_s: float
    keeps_up: bool
    p50_ms: float
    p99_ms: float
    worker_cores: float
    server_cores: float
    nodes: int
    streams: int
    consumers: int
    limit: str
    """The resource with the highest use."""


class _Station:
    """Cores with one line before them."""

    def __init__(self, cores: int, at: Callable[[float, Callable[[], None]], None]) -> None:
        self._free = cores
        self._at = at
        self._line: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy_s = 0.0

    def work(self, now: float, seconds: float, then: Callable[[], None]) -> None:
        """Take `seconds` of a core as soon as one is free."""
        if not self._free:
            self._line.append((seconds, then))
            return
        self._free -= 1
        self._begin(now, seconds, then)

    def _begin(self, now: float, seconds: float, then: Callable[[], None]) -> None:
        self.busy_s += seconds

        def done() -> None:
            if self._line:
                self._begin(now + seconds, *self._line.popleft())
            else:
                self._free += 1
            then()

        self._at(now + seconds, done)


class _Shard:
    """The streams and workers of a shard, from the first arrival to the last delivery."""

    def __init__(self, load: Load, layout: Layout, costs: Costs, *, seed: int) -> None:
        self._load, self._layout, self._costs = load, layout, costs
        self._random = random.Random(seed)  # noqa: S311 - a model
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.now = 0.0
        self.server = _Station(max(1, int(costs.server_cores * layout.nodes / layout.shards)), self._at)
        self.workers = _Station(layout.workers, self._at)
        self._slots = layout.workers * layout.max_in_flight
        self._waiting: deque[Callable[[], None]] = deque()
        self.latencies_s: list[float] = []
        self.ended_at: list[float] = []

    def run(self, count: int) -> None:
        """Let `count` deliveries arrive, and be delivered."""
        rate = self._load.deliveries_per_s / self._layout.shards
        at = 0.0
        for _ in range(count):
            at += self._random.expovariate(rate)
            self._at(at, self._arrive)
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()

    def _at(self, when: float, then: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, then))

    def _arrive(self) -> None:
        began = self.now
        self.server.work(self.now, _server_s(self._layout, self._costs), lambda: self._take(began))

    def _take(self, began: float) -> None:
        if not self._slots:
            self._waiting.append(lambda: self._send(began))
            return
        self._slots -= 1
        self._send(began)

    def _send(self, began: float) -> None:
        opens = self._random.random() < self._load.new_connections
        seconds = (self._costs.worker_us + opens * self._costs.handshake_us) / 1e6
        self.workers.work(self.now, seconds, lambda: self._sent(began))

    def _sent(self, began: float) -> None:
        self.latencies_s.append(self.now - began)
        answer_ms = self._random.lognormvariate(math.log(max(self._load.receiver_ms, 1e-3)), self._load.receiver_sigma)
        self._at(self.now + answer_ms / 1e3, self._answered)

    def _answered(self) -> None:
        self.ended_at.append(self.now)
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._slots += 1


def simulate(load: Load, layout: Layout, costs: Costs = MEASURED, *, seed: int = 1) -> Outcome:
    """Simulate `load` on `layout`. Latency is from acceptance until the request is sent to the receiver."""
    per_shard = load.deliveries_per_s / layout.shards
    count = min(MOST_DELIVERIES, max(2_000, int(per_shard * 10)))
    shard = _Shard(load, layout, costs, seed=seed)
    shard.run(count)
    from_, to = int(count * WARM_UP_SHARE), int(count * (1 - COOL_DOWN_SHARE))
    ended = sorted(shard.ended_at)
    delivered_per_s = (to - from_) / (ended[to] - ended[from_]) * layout.shards
    waits = sorted(shard.latencies_s[from_:to])
    uses = _uses(load, layout, costs)
    return Outcome(
        delivered_per_s=round(min(delivered_per_s, load.deliveries_per_s), 1),
        keeps_up=max(uses.values()) < 1,
        p50_ms=round(waits[len(waits) // 2] * 1e3, 2),
        p99_ms=round(waits[len(waits) * 99 // 100] * 1e3, 2),
        worker_cores=round(load.deliveries_per_s * _worker_s(load, costs), 3),
        server_cores=round(load.deliveries_per_s * _server_s(layout, costs), 3),
        nodes=layout.nodes,
        streams=len(streams.STREAMS) * layout.shards,
        consumers=len(streams.ALL_CONSUMERS) * layout.shards,
        limit=max(uses, key=uses.__getitem__),
    )


def capacity_per_s(layout: Layout, costs: Costs = MEASURED, *, new_connections: float = 0.0) -> float:
    """Deliveries a second when there is always more to do and receivers answer at once: what `make bench` measures."""
    load = Load(deliveries_per_s=1.0, receiver_ms=0.0, new_connections=new_connections)
    return 1 / max(_uses(load, layout, costs).values())


def layout_for(load: Load, *, replicas: int, costs: Costs = MEASURED) -> Layout:
    """The smallest layout in which nothing is used beyond `ROOM`: shards for the streams, workers, and nodes."""
    layout = Layout(replicas=replicas, nodes=replicas)
    shards = _enough(_uses(load, layout, costs)["stream"])
    layout = msgspec.structs.replace(layout, shards=shards)
    uses = _uses(load, layout, costs)
    nodes = replicas * _enough(uses["server"])
    return msgspec.structs.replace(layout, workers=_enough(max(uses["workers"], uses["slots"])), nodes=nodes)


def _enough(use: float) -> int:
    return max(1, math.ceil(use / ROOM))


def _uses(load: Load, layout: Layout, costs: Costs) -> dict[str, float]:
    """Return the use of each resource; 1 is all of it."""
    per_s, workers = load.deliveries_per_s, layout.shards * layout.workers
    worker_s, server_s = _worker_s(load, costs), _server_s(layout, costs)
    mean_answer_s = load.receiver_ms / 1e3 * math.exp(load.receiver_sigma**2 / 2)
    uses = {
        "workers": per_s * worker_s / workers,
        "server": per_s * server_s / (layout.nodes * costs.server_cores),
        "stream": per_s / layout.shards / (costs.r1_per_s if layout.replicas == 1 else costs.r3_per_s),
        "slots": per_s * (mean_answer_s + worker_s) / (workers * layout.max_in_flight),
    }
    if layout.shared_cores:
        uses["machine"] = per_s * (worker_s + server_s + costs.receiver_us / 1e6) / layout.shared_cores
    return uses


def _worker_s(load: Load, costs: Costs) -> float:
    return (costs.worker_us + load.new_connections * costs.handshake_us) / 1e6


def _server_s(layout: Layout, costs: Costs) -> float:
    return (costs.server_us if layout.replicas == 1 else costs.server_us_r3) / 1e6


def main(arguments: list[str] | None = None) -> int:
    """Run it and return the exit code: 0 when the layout keeps up with the load."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=1_000.0, help="deliveries a second (%(default)g)")
    parser.add_argument("--receiver-ms", type=float, default=50.0, help="median answer of receivers (%(default)g)")
    parser.add_argument("--new-connections", type=float, default=0.02, help="share that opens one (%(default)g)")
    parser.add_argument("--replicas", type=int, choices=(1, 3), default=3, help="of each stream (%(default)d)")
    parser.add_argument("--shards", type=int, help="streams side by side (as few as will do)")
    parser.add_argument("--workers", type=int, help="worker processes per shard (as few as will do)")
    parser.add_argument("--seed", type=int, default=1, help="another run of chance")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    if asked.rate <= 0 or asked.receiver_ms < 0 or not 0 <= asked.new_connections <= 1:
        parser.error("expected a positive rate, no negative time, and a share from 0 to 1")
    if (asked.shards or 1) < 1 or (asked.workers or 1) < 1:
        parser.error("expected at least one shard and one worker")
    load = Load(deliveries_per_s=asked.rate, receiver_ms=asked.receiver_ms, new_connections=asked.new_connections)
    least = layout_for(load, replicas=asked.replicas)
    layout = msgspec.structs.replace(least, shards=asked.shards or least.shards, workers=asked.workers or least.workers)
    outcome = simulate(load, layout, seed=asked.seed)
    _print(load, layout, outcome, as_json=asked.json)
    return 0 if outcome.keeps_up else 1


def _print(load: Load, layout: Layout, outcome: Outcome, *, as_json: bool) -> None:
    told: dict[str, Any] = {"load": load, "layout": layout, "outcome": outcome, "left_out": LEFT_OUT}
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return
    print(f"{load.deliveries_per_s:g}/s to receivers of {load.receiver_ms:g} ms, R{layout.replicas}:")
    print(f"  {layout.shards} shards of {layout.workers} workers; {outcome.streams} streams on {outcome.nodes} nodes")
    print(
        f"  cores: {outcome.worker_cores:g} of workers, {outcome.server_cores:g} of servers; most used: {outcome.limit}"
    )
    print(f"  until sent: p50 {outcome.p50_ms:g} ms, p99 {outcome.p99_ms:g} ms")
    print(f"  {'keeps up' if outcome.keeps_up else 'falls behind'}: {outcome.delivered_per_s:g}/s delivered")
    print("  left out: " + "; ".join(LEFT_OUT))


if __name__ == "__main__":
    sys.exit(main())
