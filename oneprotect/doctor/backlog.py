"""Whether consumers take the work, and how much of it waits for how long."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final, cast

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import NotFound
from oneprotect.doctor.nats_server import read_time
from oneprotect.doctor.result import CheckGroup, CheckResult
from schemas import subjects

LOOKS: Final = 3
LOOK_EVERY_S: Final = 0.1
"""Between the end of one request for work and the next, a consumer asks for nothing, for a moment."""
OLD_S: Final = 60.0
"""Work that is due is taken at once; this old, more comes in than goes out."""
OVERDUE_S: Final = 60.0
SCHEDULES_READ: Final = 256
STILL_S: Final = 2.5
"""Longer than two rounds of the feeders, each of which brings something back where there is room."""

_GROUP = CheckGroup("work")
_AT: Final = "@at "
_NO_STREAM: Final = "oneprotect apply"


async def check_work(connection: NatsConnection, *, old_s: float = OLD_S) -> list[CheckResult]:
    """Everything about the work. `old_s`: how long due work may wait. Raises `JetStreamError`."""
    checks = await asyncio.gather(*(_consumer(connection, consumer) for consumer in subjects.CONSUMERS))
    return [
        *checks,
        await _due(connection, old_s),
        await _overflow(connection),
        await _lines(connection),
        await _schedules(connection),
    ]


async def _consumer(connection: NatsConnection, consumer: subjects.ConsumerConfig) -> CheckResult:
    name = f"consumer {consumer.stream}/{consumer.name}"
    looks_left = LOOKS
    while True:
        try:
            info = await management.consumer_info(connection, consumer.stream, consumer.name)
        except NotFound:
            return _GROUP.unknown(name, "it is missing", _NO_STREAM)
        looks_left -= 1
        if info.num_waiting or not looks_left:
            return _taken(name, info)
        await asyncio.sleep(LOOK_EVERY_S)


def _taken(name: str, info: management.ConsumerInfo) -> CheckResult:
    """Whether somebody takes what there is: `num_waiting` counts requests for more."""
    in_hand, pending = info.num_ack_pending, info.num_pending
    if info.num_waiting:
        return _GROUP.ok(name, f"workers ask for work; {in_hand} in hand, {pending} behind them")
    if in_hand:
        return _GROUP.warning(
            name,
            f"no worker asks for more; they have {in_hand} in hand, or are gone; {pending} wait behind them",
            "see what they do: oneprotect attempts --follow\n"
            "if all are busy, run more consumers, or raise ONEPROTECT_MAX_IN_FLIGHT",
        )
    return _GROUP.failed(
        name,
        f"no worker asks for work, so nothing is delivered; {pending} wait",
        "start one: oneprotect consumer\nin a cluster, see why none runs: kubectl get pods; kubectl logs POD",
    )


async def _due(connection: NatsConnection, old_s: float) -> CheckResult:
    info = await management.find_stream(connection, subjects.WORK.name)
    if info is None:
        return _GROUP.unknown("due work", "its stream is missing", _NO_STREAM)
    count, age_s = info.state.messages, info.oldest_age_s
    if not count:
        return _GROUP.ok("due work", "none waits")
    if age_s <= old_s:
        return _GROUP.ok("due work", f"{count} on their way, the oldest for {age_s:.0f} s")
    return _GROUP.warning(
        "due work",
        f"{count} wait, the oldest for {_duration(age_s)}; most for {await _busiest(connection, subjects.WORK)}",
        "see how their attempts end: oneprotect attempts --tenant TENANT --destination ID --since 15m\n"
        "if they are slow, raise the destination's max_in_flight, or run more consumers",
    )


async def _overflow(connection: NatsConnection) -> CheckResult:
    info = await management.find_stream(connection, subjects.OVERFLOW.name)
    if info is None:
        return _GROUP.unknown("overflow", "its stream is missing", _NO_STREAM)
    count = info.state.messages
    if not count:
        return _GROUP.ok("overflow", "empty: no destination has more work than it is given")
    if stuck := await _stuck(connection, info):
        return _GROUP.warning(
            "overflow",
            f"{count} wait, and none comes back though there is room: {stuck}",
            "if no consumer runs, start one; if the destination only fails it has a rest, and goes on by itself\n"
            "otherwise see what consumers log: feeder.failed; and how attempts end: "
            "oneprotect attempts --tenant TENANT --destination ID --since 15m",
        )
    return _GROUP.warning(
        "overflow",
        f"{count} wait behind a destination's fill of due work; most for "
        f"{await _busiest(connection, subjects.OVERFLOW)}",
        "see why it falls behind: oneprotect attempts --tenant TENANT --destination ID --since 15m\n"
        "a destination that is gone for good: oneprotect destination disable ID --tenant TENANT",
    )


async def _stuck(connection: NatsConnection, before: management.StreamInfo) -> str | None:
    """A destination with work in the overflow, and room for it, when none has been brought back for some rounds."""
    await asyncio.sleep(STILL_S)
    overflow = await _by_subject(connection, subjects.OVERFLOW)
    if overflow.state.first_seq != before.state.first_seq:
        return None
    work = await _by_subject(connection, subjects.WORK)
    for subject in overflow.state.subjects:
        tenant, destination = subjects.tenant_and_destination(subject)
        if work.state.subjects.get(subjects.requested(tenant, destination), 0) < work.config["max_msgs_per_subject"]:
            return f"{tenant}/{destination}"
    return None


async def _by_subject(connection: NatsConnection, stream: subjects.StreamConfig) -> management.StreamInfo:
    return await management.stream_info(connection, stream.name, subjects=stream.subjects[0])


async def _lines(connection: NatsConnection) -> CheckResult:
    """Destinations that take their deliveries in order: what fails holds up its line, so a long one is no fault."""
    info = await management.find_stream(connection, subjects.ORDERED.name)
    if info is None:
        return _GROUP.unknown("lines", "their stream is missing", _NO_STREAM)
    count = info.state.messages
    if not count:
        return _GROUP.ok("lines", "empty: no destination with `ordering: fifo` has anything waiting")
    longest = await _busiest(connection, subjects.ORDERED)
    return _GROUP.ok("lines", f"{count} wait for their turn; the longest line: {longest}")


async def _schedules(connection: NatsConnection) -> CheckResult:
    """Attempts that wait for their time. The oldest schedules are looked at, as that is where a stuck one stays."""
    info = await management.find_stream(connection, subjects.RETRIES.name)
    if info is None:
        return _GROUP.unknown("schedules", "their stream is missing", _NO_STREAM)
    late = overdue(await _oldest_schedules(connection), info.ts)
    if late:
        return _GROUP.failed(
            "schedules",
            f"{late} of the oldest are overdue: the server has not fired them",
            "see that the stream has a leader, and its log: nats stream info ONEPROTECT_RETRIES\n"
            "let another server lead: nats stream cluster step-down ONEPROTECT_RETRIES",
        )
    return _GROUP.ok("schedules", f"{info.state.messages} wait for their time, none overdue")


def overdue(records: list[direct_get.StoredMessage], now: datetime) -> int:
    """How many of these schedules should have been fired a minute before `now`, or earlier."""
    times = (read_time(record.headers.get(subjects.HEADER_SCHEDULE, "").removeprefix(_AT)) for record in records)
    return sum((now - time).total_seconds() > OVERDUE_S for time in times if time is not None)


async def _oldest_schedules(connection: NatsConnection) -> list[direct_get.StoredMessage]:
    pattern = subjects.scheduled("*", "*", "*")
    records: list[direct_get.StoredMessage] = []
    scan = cast(
        "AsyncGenerator[direct_get.StoredMessage, Any]", direct_get.scan(connection, subjects.RETRIES.name, pattern)
    )
    async with contextlib.aclosing(scan) as oldest:
        async for record in oldest:
            records.append(record)
            if len(records) == SCHEDULES_READ:
                break
    return records


async def _busiest(connection: NatsConnection, stream: subjects.StreamConfig) -> str:
    """The destination with most messages in the stream, as `tenant/destination`."""
    counts = (await _by_subject(connection, stream)).state.subjects
    if not counts:
        return "nobody any more"
    subject = max(counts, key=lambda name: counts[name])
    return "{}/{} ({})".format(*subjects.tenant_and_destination(subject), counts[subject])


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
