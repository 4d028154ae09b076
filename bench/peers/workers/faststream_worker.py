"""FastStream on NATS JetStream: a pull subscriber with as many workers as may be in flight, on asyncio and aiohttp.

Acknowledged when it has ended; the result is published to a stream, and stored, before that.
"""

import asyncio
import sys
import time
from typing import Any

import aiohttp
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from work import BROKER_URL, IN_FLIGHT, deliveries, result, signed

WORK = JStream(name="PEER_WORK", subjects=["peer.requested.>"], declare=False)
RESULTS = JStream(name="PEER_RESULTS", subjects=["peer.attempted.>"], declare=False)

broker = NatsBroker(BROKER_URL, logger=None, apply_types=False)
app = FastStream(broker, logger=None)
sessions: list[aiohttp.ClientSession] = []


@app.on_startup
async def open_session() -> None:
    """Open a session, with a pool of connections, for all deliveries."""
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT, keepalive_timeout=60)
    sessions.append(aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()))


@app.after_shutdown
async def close_session() -> None:
    """Close it."""
    await sessions[0].close()


@broker.subscriber(
    "peer.requested.>",
    stream=WORK,
    durable="delivery",
    pull_sub=PullSub(batch_size=IN_FLIGHT),
    max_workers=IN_FLIGHT,
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def deliver(delivery: dict[str, Any]) -> None:
    """Send a delivery."""
    began = time.time()
    url, headers, body = signed(delivery)
    async with sessions[0].post(url, data=body, headers=headers, allow_redirects=False) as response:
        await response.read()
    subject = f"peer.attempted.{delivery['tenant']}.{delivery['destination']}"
    await broker.publish(result(delivery, response.status, began), subject, stream=RESULTS.name)


async def produce(prefix: str, count: int) -> None:
    """Publish a round's requests, each of them stored."""
    async with broker:
        window = asyncio.Semaphore(256)

        async def one(delivery: dict[str, Any]) -> None:
            async with window:
                subject = f"peer.requested.{delivery['tenant']}.{delivery['destination']}"
                await broker.publish(delivery, subject, stream=WORK.name)

        await asyncio.gather(*map(one, deliveries(prefix, count)))


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2])))
