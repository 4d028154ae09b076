"""kill -9 of the API under load: every accepted request is stored, and a repeated request is stored once."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable

import aiohttp
import pytest

from oneprotect.dev.nats_server import free_port
from schemas import streams
from schemas.events import decode_request
from schemas.roles import Role, TokenSpec
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial

Figure = Callable[[str], None]

ROUNDS = 2
CLIENTS = 16
DESTINATIONS = ("one", "two", "three")


@contextlib.asynccontextmanager
async def _api(site: Site, port: int) -> AsyncGenerator[Process]:
    process = await Process.start(site.environ | {"ONEPROTECT_API_PORT": str(port)}, "api")
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


class Producer:
    """A producer that repeats each request, with its own id, until the API accepts it."""

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session = session
        self._url = f"{url}/v1/tenants/{TENANT}/deliveries"
        self._name = name
        self.accepted: list[str] = []
        self.repeated = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Request one delivery after the other."""
        number = 0
        while not stop.is_set():
            number += 1
            await self._ask(f"{self._name}-{number}")

    async def _ask(self, delivery: str) -> None:
        body = {"event_type": "a.b", "payload": {"n": 1}}
        while True:
            try:
                async with self._session.post(
                    self._url, json=body, headers={"Idempotency-Key": delivery}, timeout=aiohttp.ClientTimeout(5)
                ) as answer:
                    if answer.status == 202:
                        self.accepted.append(delivery)
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            self.repeated += 1
            await asyncio.sleep(0.02)


async def test_an_api_killed_under_load(site: Site, figure: Figure) -> None:
    """Every accepted fan-out is stored exactly once for each of its destinations, over several kills."""
    for name in DESTINATIONS:
        await site.destination(name, "https://example.com/in", event_types=["*"])
    _, token = await site.jetstream.tokens.create(TokenSpec(tenant=TENANT, roles=(Role.PRODUCER,)), by="test")
    port = free_port()
    url, stop = f"http://127.0.0.1:{port}", asyncio.Event()
    headers = {"authorization": f"Bearer {token.reveal()}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        producers = [Producer(session, url, f"p{number}") for number in range(CLIENTS)]
        working = [asyncio.create_task(producer.run(stop)) for producer in producers]
        for round_ in range(ROUNDS):
            async with _api(site, port) as process:
                await until(lambda: _is_ready(session, url), 30)
                goal = sum(len(producer.accepted) for producer in producers) + 100
                await until(lambda goal=goal: sum(len(p.accepted) for p in producers) >= goal, 30)  # type: ignore[misc]
                if round_ == ROUNDS - 1:
                    stop.set()
                    await asyncio.gather(*working)
                    process.terminate()
                    assert await process.wait() == 0

    accepted = [delivery for producer in producers for delivery in producer.accepted]
    stored: Counter[tuple[str, str]] = Counter()
    for stream in (streams.WORK, streams.OVERFLOW):
        for record in await site.records(stream):
            asked = decode_request(record.data)
            stored[asked.id, asked.data.destination] += 1
    assert set(stored) == {(delivery, name) for delivery in accepted for name in DESTINATIONS}
    assert set(stored.values()) == {1}
    repeated = sum(producer.repeated for producer in producers)
    figure(
        f"{len(accepted)} fan-outs to 3 accepted over {ROUNDS - 1} kills, {repeated} asked for again; 0 lost, 0 twice"
    )
