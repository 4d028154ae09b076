"""Measure a peer: give it a round's work, start it, and count CPU time between two receipts."""

import asyncio
import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.harness.child import child
from bench.harness.errors import BenchError
from bench.harness.site import START_TIMEOUT_S, Site
from bench.harness.workload import ADDRESSES, IN_FLIGHT
from bench.peers.broker import Broker
from bench.peers.install import BIN, HERE, NODE_MODULES
from bench.peers.plan import WARM_UP_SHARE, Peer

DEADLINE_S: Final = 60.0
RECORDED_TIMEOUT_S: Final = 20.0
CALIBRATION_COUNT: Final = 2000
_POLL_S: Final = 0.1


class Round(Struct, frozen=True):
    """Deliveries a second, and CPU time per delivery of the workers and of the broker."""

    per_s: float
    workers_us: float
    broker_us: float
    count: int

    @property
    def system_us(self) -> float:
        """CPU time per delivery of everything but the receiver."""
        return self.workers_us + self.broker_us


class PeerBench:
    """Measures one peer, round by round."""

    def __init__(self, site: Site, peer: Peer, broker: Broker, directory: Path) -> None:
        self._site = site
        self.peer = peer
        self._broker = broker
        self._log = directory / f"{peer.name}.log"
        self._environ = {
            "BENCH_BROKER_URL": broker.url,
            "BENCH_SETUP": str(directory / "setup.json"),
            "BENCH_IN_FLIGHT": str(IN_FLIGHT),
            "NODE_PATH": str(NODE_MODULES),
            "NODE_ENV": "production",
            "PYTHONPATH": str(HERE / "workers"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.rounds: list[Round] = []
        self.published: set[str] = set()
        """By the receiver's name for each."""

    async def round(self, seconds: float) -> Round:
        """Measure for about `seconds`, going by the round before, and keep the result."""
        rate = self.rounds[-1].per_s if self.rounds else (await self._saturate("warm", CALIBRATION_COUNT)).per_s
        count = max(CALIBRATION_COUNT, int(rate * seconds / (1 - WARM_UP_SHARE)))
        self.rounds.append(await self._saturate(str(len(self.rounds)), count))
        return self.rounds[-1]

    async def _saturate(self, name: str, count: int) -> Round:
        prefix, warm_up = f"{self.peer.name}-{name}", int(count * WARM_UP_SHARE)
        await self._broker.empty()
        await self.produce(prefix, count)
        names = (f"{ADDRESSES[number % len(ADDRESSES)].path} {prefix}-{number}" for number in range(count))
        self.published.update(names)
        self._site.receiver.tell(b"expect %d %d" % (count, warm_up))
        await self._site.receiver.hear("expecting", START_TIMEOUT_S)
        program, *arguments = self._command()
        async with child(
            self.peer.name, *arguments, log=self._log, environ=self._environ, program=(program,)
        ) as worker:
            try:
                began_ns = int(await self._site.receiver.hear("warm", DEADLINE_S))
                before = worker.cpu_s(), self._broker.cpu_s()
                ended_ns = int(await self._site.receiver.hear("complete", DEADLINE_S))
                after = worker.cpu_s(), self._broker.cpu_s()
                await self._all_recorded(count)
            except BenchError as error:
                raise BenchError(f"{self.peer.name}: {error}{worker.log_tail()}") from None
            await worker.stop()
        measured = count - warm_up
        workers_us, broker_us = ((late - early) * 1e6 / measured for early, late in zip(before, after, strict=True))
        return Round(measured * 1e9 / (ended_ns - began_ns), workers_us, broker_us, measured)

    async def produce(self, prefix: str, count: int) -> None:
        """Have its own producer add `count` deliveries. Raises `BenchError`."""
        program = "node" if self.peer.runs_on_node else str(BIN / "python")
        module = str(HERE / "workers" / self.peer.module)
        async with child(
            f"{self.peer.name} producer",
            *(module, prefix, str(count)),
            log=self._log,
            environ=self._environ,
            program=(program,),
        ) as producer:
            if code := await producer.wait(DEADLINE_S):
                raise BenchError(f"{producer.name} ended with {code}{producer.log_tail()}")

    def _command(self) -> tuple[str, ...]:
        program, *arguments = self.peer.worker
        return (program if self.peer.runs_on_node else os.fspath(BIN / program), *arguments)

    async def _all_recorded(self, count: int) -> None:
        """Wait until each delivery has its result. Raises `BenchError`."""
        deadline = asyncio.get_running_loop().time() + RECORDED_TIMEOUT_S
        while (have := await self._broker.recorded(self.peer)) < count:
            if asyncio.get_running_loop().time() > deadline:
                raise BenchError(f"{have} results are on record, of {count} deliveries")
            await asyncio.sleep(_POLL_S)
