"""Retries on a real nats-server: attempts, their schedule, and their stored results."""

import itertools
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.headers import HEADER_ATTEMPT, HEADER_CODE, HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET
from tests.support.receiver import HANG, RESET, Answer, Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry


async def test_a_failing_receiver_gets_every_attempt_numbered_signed_and_on_time(
    site: Site, receiver: Scripted
) -> None:
    """A receiver that fails four times gets five attempts with one id and separate signatures."""
    receiver.script = [500, Answer(503, {"retry-after": "1"}), HANG, RESET, 200]
    await site.destination("orders", receiver.url, timeout_s=0.5)

    async with site.consumer():
        delivery = await site.deliver("orders", payload=b'{"total":  42}')
        await until(lambda: len(receiver.seen) == 5, 20)
        await until(site.is_settled)

    results = await site.results(delivery)
    assert [result.attempt for result in results] == [1, 2, 3, 4, 5]
    assert [result.code for result in results] == [
        Code.HTTP_5XX,
        Code.HTTP_5XX,
        Code.NET_TIMEOUT,
        Code.NET_RESET,
        Code.HTTP_2XX,
    ]
    assert [result.outcome for result in results] == [Outcome.RETRY_SCHEDULED] * 4 + [Outcome.DELIVERED]
    assert results[1].retry_after_s == 1
    assert {seen.id for seen in receiver.seen} == {delivery}
    assert {seen.body for seen in receiver.seen} == {b'{"total":  42}'}
    for seen in receiver.seen:
        Webhook(site.secret).verify(seen.body, seen.headers, json_parse=False)
    for before, after in itertools.pairwise(results):
        assert before.next_attempt_at is not None
        late = after.started_at - before.next_attempt_at
        assert timedelta(0) <= late < timedelta(seconds=2)
    gaps = [after.started_at - before.started_at for before, after in itertools.pairwise(results)]
    assert gaps[0] >= timedelta(seconds=0.3)
    assert gaps[1] >= timedelta(seconds=1), "Retry-After is the earliest time"


async def test_retries_that_a_receiver_asks_for_at_one_moment_are_not_due_together(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """The server fires schedules one after the other, so those of one tenant leave time for those of others."""
    receiver.script = [Answer(503, {"retry-after": "60"})]
    async with Site(tmp_path, nats_server, retries_per_s="30") as site:
        await site.destination("orders", receiver.url)
        deliveries = [await site.deliver("orders") for _ in range(40)]
        async with site.consumer():
            await until(lambda: len(receiver.seen) == 40, 20)
            await until(lambda: _are_scheduled(site, 40), 10)

        results = [result for delivery in deliveries for result in await site.results(delivery)]
    due = [result.next_attempt_at for result in results if result.next_attempt_at]
    assert len(due) == 40
    assert max(Counter(int(at.timestamp()) for at in due).values()) <= 11
    assert all(timedelta(seconds=60) <= at - result.started_at for at, result in zip(due, results, strict=True))


async def _are_scheduled(site: Site, count: int) -> bool:
    return len(await site.records(streams.RETRIES)) == count


async def test_each_attempt_has_a_fresh_timestamp(site: Site, receiver: Scripted) -> None:
    """A receiver's tolerance never runs out over retries."""
    receiver.script = [Answer(503, {"retry-after": "2"}), 200]
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 2, 20)

    first, second = (int(seen.headers["webhook-timestamp"]) for seen in receiver.seen)
    assert second >= first + 2
    assert receiver.seen[0].headers["webhook-signature"] != receiver.seen[1].headers["webhook-signature"]


async def test_when_attempts_run_out_the_delivery_is_kept_whole(site: Site, receiver: Scripted) -> None:
    """The request is kept byte for byte, with the reason, and nothing is scheduled."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[0.1, 0.1])

    async with site.consumer():
        delivery = await site.deliver("orders", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
        await until(lambda: len(receiver.seen) == 3, 20)
        await until(site.is_settled)

    results = await site.results(delivery)
    assert [result.outcome for result in results] == [Outcome.RETRY_SCHEDULED, Outcome.RETRY_SCHEDULED, Outcome.FAILED]
    (kept,) = await site.records(streams.FAILED)
    assert kept.subject == subjects.failed(TENANT, "orders", delivery)
    assert kept.headers[HEADER_ATTEMPT] == "3"
    assert kept.headers[HEADER_CODE] == "http.5xx"
    assert kept.headers["traceparent"].startswith("00-0af7")
    assert b'"payload":{"n": 1}' in kept.data


@pytest.mark.parametrize(
    ("script", "code"), [([410], Code.HTTP_410), ([404, 404, 404, 404, 404], Code.HTTP_4XX), ([301] * 5, Code.HTTP_3XX)]
)
async def test_outcomes_of_other_replies(site: Site, receiver: Scripted, script: list[int], code: Code) -> None:
    """410 is final at once; other refusals and redirects use up the schedule; a redirect is never followed."""
    receiver.script = [Answer(status, {"location": receiver.url + "/elsewhere"}) for status in script]
    await site.destination("orders", receiver.url, retry_schedule_s=[0.05] * 4)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(site.is_settled, 20)

    results = await site.results(delivery)
    assert [result.code for result in results] == [code] * len(script)
    assert results[-1].outcome is Outcome.FAILED
    assert {seen.path for seen in receiver.seen} == {"/in"}


async def test_a_missing_secret_uses_up_no_attempt_and_nothing_goes_out_unsigned(
    site: Site, receiver: Scripted
) -> None:
    """The delivery waits for its secret, and its first attempt starts when the secret is available."""
    manifest = site.directory / "secrets" / "webhooks" / "signing-key.json"
    content = manifest.read_bytes()
    manifest.unlink()
    await site.destination("orders", receiver.url, retry_schedule_s=[0.1])

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: _waits(site, delivery, 3), 20)
        assert receiver.seen == []
        manifest.write_bytes(content)
        await until(lambda: receiver.seen, 20)
        await until(site.is_settled)

    results = await site.results(delivery)
    assert {result.attempt for result in results} == {1}
    assert [result.code for result in results[:-1]] == [Code.SECRET_NOT_FOUND] * (len(results) - 1)
    assert results[-1].outcome is Outcome.DELIVERED
    assert len(receiver.seen) == 1


async def _waits(site: Site, delivery: str, count: int) -> bool:
    results = await site.results(delivery)
    return len([r for r in results if r.code is Code.SECRET_NOT_FOUND]) >= count


async def test_a_newer_schedule_replaces_the_pending_one(site: Site, receiver: Scripted) -> None:
    """A delivery has one pending attempt at most."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[600])

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: _scheduled(site, delivery))
        pending = await _scheduled(site, delivery)
        assert pending is not None
        headers = {
            HEADER_SCHEDULE: "@at 2026-01-01T00:00:00Z",
            HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders"),
            HEADER_ATTEMPT: "2",
        }
        await site.jetstream.publisher.put(subjects.scheduled(TENANT, "orders", delivery), pending, headers)
        await until(site.is_settled, 20)

    assert [result.outcome for result in await site.results(delivery)] == [Outcome.RETRY_SCHEDULED, Outcome.DELIVERED]


async def _scheduled(site: Site, delivery: str) -> bytes | None:
    for record in await site.records(streams.RETRIES):
        if record.subject == subjects.scheduled(TENANT, "orders", delivery):
            return record.data
    return None
