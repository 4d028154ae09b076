"""The developer's nats-server: loopback only, restartable, and never left behind."""

import asyncio

from nats.aio.client import Client
import nats
from oneprotect.dev.nats_server import EmbeddedNats


async def test_ready(nats_server: EmbeddedNats) -> None:
    """x."""
    assert "uvloop" in type(asyncio.get_running_loop()).__module__
    client = await nats.connect(nats_server.url)
    js = client.jetstream()
    await js.add_stream(name="S", subjects=["s.>"])
    await js.publish("s.a", b"1")
    await client.close()
    await nats_server.kill()
    await nats_server.restart()
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().stream_info("S")).state.messages == 1
    await client.close()
