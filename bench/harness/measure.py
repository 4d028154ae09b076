"""The two measurements: how much when there is always more to do, and how soon when there is little."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from bench.harness.errors import BenchError
from bench.harness.load import Load
from bench.harness.site import START_TIMEOUT_S, CpuTimes, Site
from bench.harness.workload import ADDRESSES, CALIBRATION_COUNT, PACE_PER_S, PACED_S, WARM_UP_SHARE, Address, Contender

BURST_TIMEOUT_S: Final = 30.0
SETTLE_TIMEOUT_S: Final = 25.0
_POLL_S: Final = 0.02

T = TypeVar("T")


class Throughput(Struct, frozen=True):
    """A round with more work than can be done: deliveries a second, and CPU time per delivery of who takes part."""

    per_s: float
    consumer_us: float
    nats_us: float
    receiver_us: float
    count: int


class Latency(Struct, frozen=True):
    """Milliseconds from before a request is published until the receiver has it."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


class Bench:
    """Measures one contender."""

    def __init__(self, site: Site, contender: Contender, addresses: Sequence[Address] = ADDRESSES) -> None:
        self._site = site
        self.contender = contender
        self.load = Load(site.jetstream.publisher, contender, addresses)
        self.rounds: list[Throughput] = []
        self._paced: list[str] = []

    async def start(self) -> None:
        """Wait until it asks for work."""
        await self._until(lambda: self._site.is_pulling(self.contender), "started", START_TIMEOUT_S)

    async def saturate(self, count: int) -> Throughput:
        """Publish `count` requests ahead, have all of them delivered, and measure after the warm-up."""
        warm_up = int(count * WARM_UP_SHARE)
        await self._site.pause(self.contender)
        await self._within(BURST_TIMEOUT_S, self.load.burst(count - 1), "been given its requests")
        await self._expect(count, warm_up)
        await self._site.resume(self.contender)
        await self.load.burst(1)  # the server does not look at a resumed consumer's requests until something new comes
        began_ns = int(await self._hear("warm"))
        before = self._site.cpu_times(self.contender)
        ended_ns = int(await self._hear("complete"))
        after = self._site.cpu_times(self.contender)
        await self._settled()
        return _throughput(count - warm_up, (ended_ns - began_ns) / 1e9, before, after)

    async def round(self, seconds: float) -> Throughput:
        """Measure for about `seconds`, going by the round before, and keep the result."""
        rate = self.rounds[-1].per_s if self.rounds else (await self.saturate(CALIBRATION_COUNT)).per_s
        self.rounds.append(await self.saturate(max(CALIBRATION_COUNT, int(rate * seconds / (1 - WARM_UP_SHARE)))))
        return self.rounds[-1]

    async def pace(self, per_s: float = PACE_PER_S, seconds: float = PACED_S) -> None:
        """Request deliveries at an even pace; `latency` has the figures when the receiver has reported."""
        await self._expect(int(per_s * seconds), 1)
        self._paced = await self._within(seconds * 3, self.load.paced(per_s, seconds), "been given its requests")
        await self._hear("warm")
        await self._hear("complete")
        await self._settled()

    def latency(self, receipts: dict[str, int]) -> Latency:
        """The latency that `pace` has measured."""
        waits_ms = sorted((receipts[name] - self.load.published_ns[name]) / 1e6 for name in self._paced)
        return Latency(*(waits_ms[int((len(waits_ms) - 1) * share)] for share in (0.5, 0.95, 0.99)))

    async def _expect(self, count: int, warm_up: int) -> None:
        self._site.receiver.tell(b"expect %d %d" % (count, warm_up))
        await self._site.receiver.hear("expecting", START_TIMEOUT_S)

    async def _hear(self, word: str) -> str:
        try:
            return await self._site.receiver.hear(word, BURST_TIMEOUT_S)
        except BenchError as error:
            problem = f"{error}{self._site.consumer(self.contender).log_tail()}"
        raise BenchError(f"{self.contender.name}: not everything was delivered: {problem}")

    async def _settled(self) -> None:
        async def is_settled() -> bool:
            return await self._site.messages(self.contender.work.name) == 0

        await self._until(is_settled, "settled everything", SETTLE_TIMEOUT_S)

    async def _until(self, condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float) -> None:
        async def poll() -> None:
            while True:
                if await condition():
                    return
                await asyncio.sleep(_POLL_S)

        await self._within(deadline_s, poll(), what)

    async def _within(self, deadline_s: float, doing: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(deadline_s):
                return await doing
        except TimeoutError:
            log = self._site.consumer(self.contender).log_tail()
        raise BenchError(f"{self.contender.name} has not {what} within {deadline_s:.0f} s{log}")


def _throughput(count: int, elapsed_s: float, before: CpuTimes, after: CpuTimes) -> Throughput:
    return Throughput(
        per_s=count / elapsed_s,
        consumer_us=(after.consumer_s - before.consumer_s) * 1e6 / count,
        nats_us=(after.nats_s - before.nats_s) * 1e6 / count,
        receiver_us=(after.receiver_s - before.receiver_s) * 1e6 / count,
        count=count,
    )
