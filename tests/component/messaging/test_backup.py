"""JetStream snapshots restore an installation on another server, as docs/how-to/back-up-and-restore.md says."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.publication import Publication
from oneprotect.bootstrap.resources import open_jetstream
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.headers import HEADER_ATTEMPT, HEADER_MSG_ID, HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

NAMES = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
CHUNK_BYTES = 64 * 1024


class Snapshot(msgspec.Struct):
    """A stream as `$JS.API.STREAM.SNAPSHOT` sends it."""

    info: dict[str, Any]
    chunks: list[bytes]


async def snapshot(connection: NatsConnection, stream: str) -> Snapshot:
    """Create a snapshot."""
    chunks: list[bytes] = []
    ended, inbox = asyncio.Event(), connection.new_inbox()

    async def take(incoming: IncomingMessage) -> None:
        if incoming.data:
            chunks.append(incoming.data)
        else:
            ended.set()
        if incoming.reply:
            await connection.publish(incoming.reply)

    subscription = await connection.subscribe(inbox, take)
    info = await connection.api(f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES})
    async with asyncio.timeout(10):
        await ended.wait()
    await subscription.unsubscribe()
    return Snapshot(info, chunks)


async def restore(connection: NatsConnection, stream: str, taken: Snapshot) -> None:
    """Put one back where there is no such stream."""
    asked = {"config": taken.info["config"], "state": taken.info["state"]}
    answer = await connection.api(f"STREAM.RESTORE.{stream}", asked)
    for chunk in [*taken.chunks, b""]:
        last = await connection.ask(answer["deliver_subject"], chunk)
        assert b'"error"' not in last.data


async def test_snapshots_restore_everything(tmp_path: Path) -> None:
    """Configuration, due work and scheduled retries are restored, and overdue deliveries are sent."""
    async with Scripted() as receiver:
        async with EmbeddedNats(tmp_path / "lost") as server, Site(tmp_path, server) as lost:
            await lost.destination("orders", receiver.url)
            waiting = [await lost.deliver("orders") for _ in range(3)]
            scheduled = await _schedule(lost, timedelta(seconds=0.2))
            later = await _schedule(lost, timedelta(hours=1))
            taken = {name: await snapshot(lost.jetstream.connection, name) for name in NAMES}
        async with EmbeddedNats(tmp_path / "found") as server:
            found = Site(tmp_path, server)
            async with open_jetstream(found.settings, name="test") as found.jetstream:
                for name in NAMES:
                    await restore(found.jetstream.connection, name, taken[name])
                changes = await found.apply()
                async with found.consumer():
                    await until(lambda: len(receiver.seen) == 4, 20)
                left = await found.records(streams.RETRIES)

    assert [change for change in changes if change.action != "none"] == []
    assert sorted(receiver.ids()) == sorted([*waiting, scheduled])
    assert [record.subject for record in left] == [subjects.scheduled(TENANT, "orders", later)]


async def _schedule(site: Site, wait: timedelta) -> str:
    """A delivery that waits for its second attempt."""
    delivery = f"dlv_{wait.seconds}_{wait.microseconds}"
    at = (datetime.now(UTC) + wait).isoformat().replace("+00:00", "Z")
    headers = {
        HEADER_MSG_ID: delivery,
        HEADER_ATTEMPT: "2",
        HEADER_SCHEDULE: f"@at {at}",
        HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders"),
    }
    subject = subjects.scheduled(TENANT, "orders", delivery)
    await site.jetstream.publisher.publish(Publication(subject, document("orders", delivery=delivery), headers))
    return delivery
