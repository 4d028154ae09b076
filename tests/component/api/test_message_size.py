"""A request that does not fit into a message of the NATS server, whose limit may be below the usual one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from oneprotect.api.operations.delivery_intake import STATE_BYTES
from oneprotect.dev.nats_server import EmbeddedNats
from tests.support.api import Api
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site

LIMIT = 64 * 1024


class SmallNats(EmbeddedNats):
    """A server with a low `max_payload`."""

    def _config(self, port: int) -> dict[str, Any]:
        return super()._config(port) | {"max_payload": LIMIT}


@pytest_asyncio.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """Return that server, for the site and its API."""
    async with SmallNats(tmp_path / "nats") as server:
        yield server


async def test_a_request_above_the_servers_limit_is_413_with_the_limit(
    site: Site, api: Api, receiver: Scripted
) -> None:
    """It is no outage, and a client need not try again. The headers of later retries fit into what is accepted."""
    await site.destination("orders", receiver.url)
    client = await api.client("producer")

    async def send(size: int) -> tuple[int, str]:
        body = {"destination": "orders", "event_type": "invoice.paid", "payload": "a" * size}
        reply = await client("POST", f"/v1/tenants/{TENANT}/deliveries", body)
        return reply.status, reply.json.get("detail", "")

    status, detail = await send(LIMIT)
    assert (status, str(LIMIT - STATE_BYTES) in detail) == (413, True)
    assert (await send(LIMIT - STATE_BYTES))[0] == 413
    assert (await send(LIMIT - STATE_BYTES - 1024))[0] == 202
