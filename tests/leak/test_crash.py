"""Handlers that crash with a secret in memory, and a NATS server that refuses."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import NoReturn

from consumers.worker.worker import Handler, Worker, WorkerLimits
from messaging.client.errors import JetStreamError
from messaging.message import Message
from messaging.publication import Publication
from messaging.pull_consumer import PullConsumer
from schemas import streams
from tests.leak.support import search_targets
from tests.leak.support.listening import Listener
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Canary, Search
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

MARKER = "a-harmless-marker"


class Poisoned:
    """An object whose text forms show its secret."""

    def __init__(self, canary: Canary) -> None:
        self._canary = canary

    def __repr__(self) -> str:
        return self._canary.reveal()


class PoisonedError(Exception):
    """Has the secret in its text, its arguments, its attributes and its notes."""

    def __init__(self, canary: Canary) -> None:
        super().__init__(canary.reveal())
        self.secret = canary.reveal_bytes()
        self.add_note(canary.reveal())


def _crash(canary: Canary) -> NoReturn:
    poisoned, raw = Poisoned(canary), canary.reveal_bytes()
    try:
        int(raw)
    except ValueError as error:
        failure = error
    else:
        raise AssertionError("it is no number")
    raise PoisonedError(canary) from ExceptionGroup(repr(poisoned), [failure])


@contextlib.asynccontextmanager
async def _running(site: Site, handler: Handler) -> AsyncGenerator[None]:
    jetstream = site.jetstream
    runtime = Worker(
        publisher=jetstream.publisher,
        connection=jetstream.connection,
        handler=handler,
        lane_limit=lambda _: 4,
        limits=WorkerLimits(max_in_flight=4, ack_wait_s=site.settings.delivery.ack_wait_s, drain_timeout_s=5),
    )
    runtime.add_source(
        PullConsumer(
            jetstream.connection,
            stream=streams.WORK.name,
            consumer=streams.WORK_CONSUMER.name,
            on_message=runtime.accept,
            room=partial(runtime.free_capacity, streams.WORK.name),
            capacity=runtime.capacity,
            ack_wait_s=runtime.ack_wait_s,
        )
    )
    stop = asyncio.Event()
    running = asyncio.create_task(runtime.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def test_a_crashing_handler_leaks_no_secret(site: Site, listener: Listener, sinks: Sinks) -> None:
    """Only the type of the exception is logged, three times until the message is quarantined."""
    canary = Canary.secret()
    calls: list[str] = []

    async def handler(message: Message) -> tuple[Publication, ...]:
        calls.append(message.subject)
        _crash(canary)

    await search_targets.overhear(site, sinks)
    await site.deliver("orders", payload=f'"{MARKER}"'.encode())
    async with _running(site, handler):
        await until(site.is_settled, 15)
    (kept,) = await site.records(streams.QUARANTINE)
    sinks.hear("quarantined headers", repr(kept.headers))
    sinks.hear_all(search_targets.store(site))

    assert len(calls) == 3
    assert sinks.holds("quarantined headers", "PoisonedError")
    assert sinks.holds("structlog", "PoisonedError")
    assert await listener.prove_alive(MARKER) == []
    assert {"NATS oneprotect.delivery.quarantined", "file ONEPROTECT_QUARANTINE"} <= set(sinks.carry(MARKER))
    assert sinks.findings(Search(canary)) == []


async def test_a_consumer_leaks_no_secret_when_nats_fails(site: Site, listener: Listener, sinks: Sinks) -> None:
    """A deleted result stream, a server restart and broken configuration reveal no secret."""
    canary, query = Canary("secret", site.secret), Canary.word("URL's query")
    async with Scripted() as receiver:
        await site.destination("orders", f"{receiver.url}?token={query.reveal()}")
        async with site.consumer():
            await site.jetstream.connection.api(f"STREAM.DELETE.{streams.ATTEMPTS.name}")
            await site.deliver("orders")
            await until(lambda: sinks.holds("structlog", "publish.failed"), 10)
            await site.server.restart()
            await site.apply()
            await until(site.is_settled, 15)
            await _break(site, query)
            await site.deliver("orders")
            await until(lambda: sinks.holds("structlog", "kv.undecodable"), 10)
        signature = receiver.seen[0].headers["webhook-signature"].removeprefix("v1,")

    assert await listener.prove_alive(MARKER) == []
    assert sinks.findings(Search(canary, query, Canary("signature", signature))) == []


async def _break(site: Site, query: Canary) -> None:
    """Store a destination with a truncated URL and a wrong type."""
    value = b'{"url": ["https://example.com/?token=' + query.reveal_bytes() + b'"], "credential": "key"}'
    with contextlib.suppress(JetStreamError):
        await site.jetstream.destinations.put(f"{TENANT}.orders", value)
