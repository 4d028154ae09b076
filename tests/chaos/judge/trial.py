"""A trial: an installation under load and disturbance, then a quiet time, then the history of it all."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from tests.chaos.judge.checker import Verdict, check
from tests.chaos.judge.history import History
from tests.chaos.judge.installation import TENANTS, Installation
from tests.chaos.judge.nemesis import Nemesis
from tests.chaos.judge.publisher import PATIENCE_S, Publisher
from tests.chaos.judge.receiver import Behaviour, Receiver
from tests.chaos.judge.rolling import RollingReplacement
from tests.chaos.judge.streams import WAITING, Streams
from tests.chaos.judge.versions import Version

_UNORDERED: Final = {
    "fast": Behaviour(),
    "flaky": Behaviour(failing=0.2),
    "slow": Behaviour(slowest_s=1.0),
    "bad": Behaviour(failing=0.7, slowest_s=0.2),
    "outages": Behaviour(down_s=15),
    "bursts": Behaviour(slowest_s=0.5),
}
_FANNED_OUT: Final = {"fan0": Behaviour(), "fan1": Behaviour(failing=0.3), "fan2": Behaviour(slowest_s=0.3)}
_ORDERED: Final = {"steps": Behaviour(slowest_s=0.1), "stumbles": Behaviour(failing=0.1, slowest_s=0.1)}

_BURST: Final = 60
"""More than the work stream holds for a destination, so that the overflow takes a part."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial does."""

    seconds: float
    seed: int
    ordered: bool = True
    """With destinations that keep an order; and, by `unordered`, with those that do not."""
    unordered: bool = True
    rate_per_s: float = 8.0
    """Requests per second to each destination, or half of it to an ordered one."""
    ack_wait_s: float = 10.0
    consumers: int = 3
    settle_s: float = 420.0
    """Time after the disturbances until everything must be settled: a circuit breaker defers for minutes."""
    old: Version | None = None
    """Version that the second consumer runs, beside the others."""
    version: Version | None = None
    """Version of everything else, by default that of this checkout."""
    replaced_by: Sequence[Version] = ()
    """Versions that replace all programs, one after the other, instead of random disturbances."""


async def run(plan: Plan, directory: Path) -> History:
    """Run a trial in an empty directory."""
    chance = random.Random(plan.seed)  # noqa: S311 - repeatable on purpose
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        site = Installation(directory, http, ack_wait_s=plan.ack_wait_s, version=plan.version or Version.current())
        behaviours = _behaviours(plan)
        async with Receiver(behaviours, site.sender_of, chance) as receiver:
            try:
                await site.start(plan.consumers, old=plan.old)
                await _create_destinations(site, receiver)
                async with Streams([f"nats://127.0.0.1:{server.port}" for server in site.servers]) as streams:
                    return await _load(plan, site, receiver, streams, chance)
            finally:
                await site.stop()


async def _load(plan: Plan, site: Installation, receiver: Receiver, streams: Streams, chance: random.Random) -> History:
    nemesis = Nemesis(site, streams, chance, ack_wait_s=plan.ack_wait_s)
    disturber = RollingReplacement(site, plan.replaced_by) if plan.replaced_by else nemesis
    publishers = _publishers(plan, site, chance)
    until = time.monotonic() + plan.seconds
    stalls: list[float] = []
    watching = asyncio.create_task(_watch(stalls))
    await asyncio.gather(disturber.run(until), *(publisher.run(until) for publisher in publishers))
    await streams.settled(plan.settle_s)
    watching.cancel()
    return History(
        seed=plan.seed,
        ack_wait_s=plan.ack_wait_s,
        stalled_s=max(stalls),
        ordered=[name for name in receiver.behaviours if name.partition("-")[2] in _ORDERED],
        requests=[request for publisher in publishers for request in publisher.requests],
        posts=receiver.posts,
        events=disturber.events,
        records=await streams.results(site.label_of),
        kept=await streams.deliveries("ONEPROTECT_FAILED"),
        quarantined=await streams.subjects("ONEPROTECT_QUARANTINE"),
        waiting=[(stream, key) for stream in WAITING for key in await streams.deliveries(stream)],
    )


async def _watch(stalls: list[float]) -> None:
    """Note by how much each sleep is too long."""
    while True:
        due = time.monotonic() + 0.1
        await asyncio.sleep(0.1)
        stalls.append(time.monotonic() - due)


def _behaviours(plan: Plan) -> dict[str, Behaviour]:
    named = (_UNORDERED | _FANNED_OUT if plan.unordered else {}) | (_ORDERED if plan.ordered else {})
    return {f"{tenant}-{name}": behaviour for tenant in TENANTS for name, behaviour in named.items()}


async def _create_destinations(site: Installation, receiver: Receiver) -> None:
    for destination in receiver.behaviours:
        tenant, _, name = destination.partition("-")
        body = {
            "url": f"http://127.0.0.1:{receiver.port}/{destination}",
            "credential": "key",
            "event_types": ["fan_out"] if name in _FANNED_OUT else ["single"],
        }
        await site.put(tenant, f"destinations/{destination}", body | ({"ordering": "fifo"} if name in _ORDERED else {}))


def _publishers(plan: Plan, site: Installation, chance: random.Random) -> list[Publisher]:
    publishers: list[Publisher] = []
    for tenant in TENANTS:
        urls = [f"http://127.0.0.1:{port}/v1/tenants/{tenant}" for port in site.api_ports]
        names = [*(_UNORDERED if plan.unordered else ()), *(_ORDERED if plan.ordered else ())]
        groups = {name: [f"{tenant}-{name}"] for name in names}
        if plan.unordered:
            groups["fan_out"] = [f"{tenant}-{name}" for name in _FANNED_OUT]
        for name, destinations in groups.items():
            rate = plan.rate_per_s / (2 if name in _ORDERED else 1)
            publishers.append(
                Publisher(
                    site.http,
                    urls,
                    chance,
                    name=name,
                    destinations=destinations,
                    rate_per_s=rate,
                    at_once=_BURST if name == "bursts" else 1,
                )
            )
    return publishers


def report(history: History, verdict: Verdict) -> list[str]:
    """Return the figures of a trial, and its findings, as lines."""
    accepted = sum(request.accepted is not None for request in history.requests)
    repeated = sum(len(request.repeated) for request in history.requests)
    outcomes = Counter(record.outcome for record in history.records)
    return [
        f"seed {history.seed}: {accepted} accepted, {repeated} repeated later, {len(history.posts)} POSTs",
        f"longest stall of the judge itself: {history.stalled_s:.1f} s",
        f"{len(history.events)} events: {_counted(Counter(event.kind for event in history.events))}",
        f"results: {_counted(outcomes)}",
        f"explained duplicates: {_counted(verdict.duplicates)}",
        f"explained POSTs without record: {_counted(verdict.unrecorded)}",
        f"findings: {_counted(verdict.kinds())}",
        *_examples(verdict),
    ]


def _examples(verdict: Verdict, each: int = 3) -> Iterator[str]:
    """Yield some findings of each kind."""
    seen: Counter[str] = Counter()
    for finding in verdict.findings:
        seen[finding.kind] += 1
        if seen[finding.kind] <= each:
            yield f"  {finding}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


async def judge(plan: Plan, directory: Path) -> tuple[History, Verdict]:
    """Run a trial in a new directory, save its history, and judge it."""
    history = await run(plan, directory)
    history.save(directory / "history.json")
    return history, check(history)
