"""Named ids across a rolling restart of three servers: each is delivered once, however often it is requested."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from messaging.client.errors import JetStreamError
from schemas.roles import Role
from tests.support.api import Client, running
from tests.support.cluster import cluster
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = [pytest.mark.serial, pytest.mark.long]

IDS = {f"{destination}-{number}": destination for destination in ("orders", "queue", "late") for number in range(7)}
"""The destination of each id: one without an order, an ordered queue, and one whose deliveries wait for a retry."""


async def _request(producer: Client, key: str) -> bool | None:
    """Return whether a request was a repeat, or None if it was not accepted."""
    body: dict[str, Any] = {"event_type": "invoice.paid", "destination": IDS[key], "payload": {"n": 1}}
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(15):
            reply = await producer("POST", f"/v1/tenants/{TENANT}/deliveries", body, headers={"Idempotency-Key": key})
        if reply.status == 202:
            return bool(reply.json["deliveries"][0]["duplicate"])
        assert reply.status in (429, 503), reply.body
    return None


async def test_repeats_during_a_rolling_restart_are_delivered_once(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Every id is repeated before, while and after each server restarts. What waits for a retry waits on."""
    async with (
        cluster(tmp_path / "nats") as nodes,
        Scripted() as receiver,
        Scripted([500]) as failing,
        Site(tmp_path, nodes[0], nats_replicas="3") as site,
    ):
        await site.destination("orders", receiver.url)
        await site.destination("queue", receiver.url, ordering="fifo")
        await site.destination("late", failing.url, retry_schedule_s=[3600])
        async with running(site) as api, site.consumer_process():
            producer = await api.client(Role.PRODUCER)

            first = [await _accepted(producer, key) for key in IDS]
            await until(lambda: len(receiver.seen) + len(failing.seen) == len(IDS), 30)
            stop, answers = asyncio.Event(), list[bool | None]()
            repeating = [asyncio.create_task(_repeat(producer, key, stop, answers)) for key in IDS]
            again: list[bool] = []
            for node in nodes:
                await node.restart()
                again += [await _accepted(producer, key) for key in IDS]
            stop.set()
            await asyncio.gather(*repeating)
            await until(lambda: _waiting(site, 7), 60)

    assert not any(first)
    assert all(again)
    assert answers.count(True) > len(IDS)
    assert False not in answers
    assert sorted(receiver.ids() + failing.ids()) == sorted(IDS)
    figure(f"{len(answers)} repeats during 3 restarts, {answers.count(None)} refused, none delivered again")


async def _accepted(producer: Client, key: str) -> bool:
    for _ in range(300):
        if (answer := await _request(producer, key)) is not None:
            return answer
        await asyncio.sleep(0.1)
    raise TimeoutError


async def _repeat(producer: Client, key: str, stop: asyncio.Event, answers: list[bool | None]) -> None:
    while not stop.is_set():
        answers.append(await _request(producer, key))


async def _waiting(site: Site, count: int) -> bool:
    with contextlib.suppress(JetStreamError):
        return await site.waiting() == count
    return False
