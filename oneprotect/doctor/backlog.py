"""Checks of the work: consumers that request it, and deliveries that wait too long."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final, cast

from consumers.queues.lost_messages import count_lost
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import NotFound
from oneprotect.doctor.result import CheckGroup, CheckResult
from schemas import streams, subjects
from schemas.headers import schedule_time

POLLS: Final = 3
POLL_INTERVAL_S: Final = 0.1
"""Polls are repeated, because a consumer has no request for a moment between two requests."""
OLD_S: Final = 60.0
"""Consumers accept due work at once. Older work means that more arrives than is sent."""
OVERDUE_S: Final = 60.0
MAX_SCHEDULES: Final = 256
FEED_INTERVAL_S: Final = 2.5
"""Longer than two rounds of the overflow feeder, which moves work back wherever there is capacity."""

_GROUP = CheckGroup("work")
_APPLY: Final = "oneprotect apply"


async def check_work(connection: NatsConnection, *, old_s: float = OLD_S) -> list[CheckResult]:
    """Check consumers, due work, overflow, ordered queues and schedules. Raises `JetStreamError`.

    Args:
        old_s: Age in seconds above which due work is a problem.
    """
    checks = await asyncio.gather(*(_check_consumer(connection, consumer) for consumer in streams.CONSUMERS))
    lost = await asyncio.gather(*(_check_lost(connection, consumer) for consumer in streams.CONSUMERS))
    return [
        *checks,
        *(check for check in lost if check is not None),
        await _check_due(connection, old_s),
        await _check_overflow(connection),
        await _check_ordered(connection),
        await _check_schedules(connection),
    ]


async def _check_consumer(connection: NatsConnection, consumer: streams.ConsumerConfig) -> CheckResult:
    name = f"consumer {consumer.stream}/{consumer.name}"
    polls_left = POLLS
    while True:
        try:
            info = await management.consumer_info(connection, consumer.stream, consumer.name)
        except NotFound:
            return _GROUP.unknown(name, "missing", _APPLY)
        polls_left -= 1
        if info.num_waiting or not polls_left:
            return _judge_consumer(name, info)
        await asyncio.sleep(POLL_INTERVAL_S)


def _judge_consumer(name: str, info: management.ConsumerInfo) -> CheckResult:
    """`num_waiting` counts open requests for more work."""
    unsettled, pending = info.num_ack_pending, info.num_pending
    if info.num_waiting:
        return _GROUP.ok(name, f"workers request work; {unsettled} unsettled, {pending} pending")
    if unsettled:
        return _GROUP.warning(
            name,
            f"no worker requests more work: all are busy or have stopped; {unsettled} unsettled, {pending} pending",
            "see what they do: oneprotect attempts --follow\n"
            "if all are busy, run more consumers, or raise ONEPROTECT_MAX_IN_FLIGHT",
        )
    return _GROUP.failed(
        name,
        f"no worker requests work, so nothing is delivered; {pending} pending",
        "start one: oneprotect consumer\nin a cluster, find out why none runs: kubectl get pods; kubectl logs POD",
    )


async def _check_lost(connection: NatsConnection, consumer: streams.ConsumerConfig) -> CheckResult | None:
    """Compare what is stored with what the consumer knows. None without the consumer: another check reports that."""
    name = f"messages of {consumer.stream}/{consumer.name}"
    try:
        lost = await count_lost(connection, consumer)
    except NotFound:
        return None
    if not lost:
        return _GROUP.ok(name, "the consumer knows all of them")
    return _GROUP.failed(
        name,
        f"{lost} are stored, and the consumer has lost them: they are never delivered, and a restart removes them",
        "before any NATS server restarts, run: oneprotect recover\n"
        "never purge a stream with pending messages: see docs/how-to/runbooks.md",
    )


async def _check_due(connection: NatsConnection, old_s: float) -> CheckResult:
    info = await management.find_stream(connection, streams.WORK.name)
    if info is None:
        return _GROUP.unknown("due work", "the stream is missing", _APPLY)
    count, age_s = info.state.messages, info.oldest_age_s
    if not count:
        return _GROUP.ok("due work", "none")
    if age_s <= old_s:
        return _GROUP.ok("due work", f"{count}, the oldest for {age_s:.0f} s")
    busiest = await _busiest(connection, streams.WORK)
    return _GROUP.warning(
        "due work",
        f"{count} pending, the oldest for {_format_duration(age_s)}; most for {busiest}",
        "see their attempts: oneprotect attempts --tenant TENANT --destination ID --since 15m\n"
        "if receivers are slow, raise the destination's max_in_flight, or run more consumers",
    )


async def _check_overflow(connection: NatsConnection) -> CheckResult:
    info = await management.find_stream(connection, streams.OVERFLOW.name)
    if info is None:
        return _GROUP.unknown("overflow", "the stream is missing", _APPLY)
    count = info.state.messages
    if not count:
        return _GROUP.ok("overflow", "empty: no destination exceeds its maximum of due work")
    if stuck := await _find_stuck(connection, info):
        return _GROUP.warning(
            "overflow",
            f"{count} pending, and none moves back although there is capacity: {stuck}",
            "if no consumer runs, start one; if the circuit of a failing destination is open, wait until it closes\n"
            "otherwise search the consumers' logs for feeder.failed, and see the attempts: "
            "oneprotect attempts --tenant TENANT --destination ID --since 15m",
        )
    return _GROUP.warning(
        "overflow",
        f"{count} pending, because destinations have their maximum of due work; most for "
        f"{await _busiest(connection, streams.OVERFLOW)}",
        "see why it is slow: oneprotect attempts --tenant TENANT --destination ID --since 15m\n"
        "if the receiver no longer exists: oneprotect destination disable ID --tenant TENANT",
    )


async def _find_stuck(connection: NatsConnection, before: management.StreamInfo) -> str | None:
    """Return a destination whose overflow has capacity but did not move during some rounds of the feeder."""
    await asyncio.sleep(FEED_INTERVAL_S)
    overflow = await _by_subject(connection, streams.OVERFLOW)
    if overflow.state.first_seq != before.state.first_seq:
        return None
    work = await _by_subject(connection, streams.WORK)
    for subject in overflow.state.subjects:
        tenant, destination = subjects.tenant_and_destination(subject)
        if work.state.subjects.get(subjects.requested(tenant, destination), 0) < work.config["max_msgs_per_subject"]:
            return f"{tenant}/{destination}"
    return None


async def _by_subject(connection: NatsConnection, stream: streams.StreamConfig) -> management.StreamInfo:
    return await management.stream_info(connection, stream.name, subjects=stream.subjects[0])


async def _check_ordered(connection: NatsConnection) -> CheckResult:
    """A long ordered queue is no problem by itself: a failing delivery blocks the later ones."""
    info = await management.find_stream(connection, streams.ORDERED.name)
    if info is None:
        return _GROUP.unknown("ordered queues", "the stream is missing", _APPLY)
    count = info.state.messages
    if not count:
        return _GROUP.ok("ordered queues", "empty")
    longest = await _busiest(connection, streams.ORDERED)
    return _GROUP.ok("ordered queues", f"{count} pending; the longest queue: {longest}")


async def _check_schedules(connection: NatsConnection) -> CheckResult:
    """Check the oldest schedules, because overdue ones stay there."""
    info = await management.find_stream(connection, streams.RETRIES.name)
    if info is None:
        return _GROUP.unknown("schedules", "the stream is missing", _APPLY)
    late = count_overdue(await _oldest_schedules(connection), info.ts)
    if late:
        return _GROUP.failed(
            "schedules",
            f"{late} of the oldest are overdue: the server did not publish them",
            "check that the stream has a leader: nats stream info ONEPROTECT_RETRIES\n"
            "elect another leader: nats stream cluster step-down ONEPROTECT_RETRIES",
        )
    return _GROUP.ok("schedules", f"{info.state.messages} scheduled, none overdue")


def count_overdue(records: list[direct_get.StoredMessage], now: datetime) -> int:
    """Count the schedules that were due more than a minute before `now`."""
    times = (schedule_time(record.headers) for record in records)
    return sum((now - time).total_seconds() > OVERDUE_S for time in times if time is not None)


async def _oldest_schedules(connection: NatsConnection) -> list[direct_get.StoredMessage]:
    pattern = subjects.scheduled("*", "*", "*")
    records: list[direct_get.StoredMessage] = []
    scan = cast(
        "AsyncGenerator[direct_get.StoredMessage, Any]", direct_get.scan(connection, streams.RETRIES.name, pattern)
    )
    async with contextlib.aclosing(scan) as oldest:
        async for record in oldest:
            records.append(record)
            if len(records) == MAX_SCHEDULES:
                break
    return records


async def _busiest(connection: NatsConnection, stream: streams.StreamConfig) -> str:
    """Return the destination with most messages in the stream, and their number."""
    counts = (await _by_subject(connection, stream)).state.subjects
    if not counts:
        return "no destination now"
    subject = max(counts, key=lambda name: counts[name])
    return "{}/{} ({})".format(*subjects.tenant_and_destination(subject), counts[subject])


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
