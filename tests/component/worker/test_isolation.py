"""The poison guard between tenants, and the counting of deaths."""

import asyncio
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from consumers.isolation.guard import MAX_WAITING, SHARED_BYTES, IsolatingGuard
from consumers.isolation.journal import SLOT_BYTES, HandlingJournal, find_journals
from consumers.isolation.suspects import SuspectRegistry
from consumers.worker.disposition import HandlerResult
from consumers.worker.poison_guard import IsolationEnded
from messaging.client.errors import JetStreamError
from messaging.message import Message
from oneprotect.bootstrap.consumer import ISOLATED
from schemas import streams, subjects
from tests.support.site import Site
from tests.support.waiting import until


def _message(site: Site, tenant: str, sequence: int, *, lane: str | None = None) -> Message:
    subject = subjects.requested(tenant, "orders")
    reply = f"$JS.ACK.{streams.WORK.name}.delivery.1.{sequence}.{sequence}.1.0".encode()
    return Message(subject, lane or f"{tenant}.orders", reply, b"{}", b"", site.jetstream.connection)


async def test_a_tenant_that_fills_the_isolation_keeps_no_other_out(site: Site, tmp_path: Path) -> None:
    """The newest message of the longest line makes room for a tenant with fewer."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    guard = IsolatingGuard(HandlingJournal(tmp_path, slots=1), registry, ["/nonexistent"], {})
    returned: Counter[str] = Counter()

    def offer(tenant: str, sequence: int) -> None:
        def on_result(result: HandlerResult | None) -> None:
            assert isinstance(result, IsolationEnded)
            returned[tenant] += 1

        guard.isolate(_message(site, tenant, sequence), on_result)

    for sequence in range(MAX_WAITING + 10):
        offer("greedy", sequence)
    for sequence in range(20):
        offer("small", 1000 + sequence)

    assert returned == {"greedy": 28}, "the first of each tenant waits no longer: its process starts"
    await guard.aclose()
    assert returned == {"greedy": MAX_WAITING + 10, "small": 20}


async def test_a_death_counts_once_for_each_message_of_a_journal(site: Site, tmp_path: Path) -> None:
    """Also when the bucket is not there at first, and when the journal has an entry that is no message."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    names = [f"{streams.WORK.name}.{number}" for number in range(1, 9)]
    for name in ("1-a", "2-b"):
        entries = ["no message", *names] if name == "1-a" else names[:1]
        content = b"".join(entry.encode().ljust(SLOT_BYTES, b"\0") for entry in entries)
        (tmp_path / f"{name}.journal").write_bytes(content)
    bucket = f"KV_{streams.SUSPECTS.name}"
    config = (await site.jetstream.connection.api(f"STREAM.INFO.{bucket}"))["config"]
    await site.jetstream.connection.api(f"STREAM.UPDATE.{bucket}", config | {"max_msgs": 4, "discard": "new"})
    await registry.start()
    assert find_journals(tmp_path), "not everything could be counted"
    await site.jetstream.connection.api(f"STREAM.UPDATE.{bucket}", config)
    stop = asyncio.Event()
    running = asyncio.create_task(registry.run(stop))
    await until(lambda: not find_journals(tmp_path), 20)
    stop.set()
    await running

    assert registry.isolated == {names[0]}, "the only one that was in both journals"
    assert registry.accused == set(names)


async def test_a_suspect_is_alone_when_its_tenant_has_no_room_in_the_shared_process(site: Site, tmp_path: Path) -> None:
    """A tenant fills half of what is free with its bodies, so a part is left for the others."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    guard = IsolatingGuard(HandlingJournal(tmp_path, slots=1), registry, ["/bin/sleep", "9"], {})
    large = _message(site, "greedy", 1)
    large.data = bytes(SHARED_BYTES // 4)
    handling = [asyncio.create_task(guard.handle(large)) for _ in range(2)]
    await asyncio.sleep(0)

    assert guard.is_alone(large)
    assert not guard.is_alone(_message(site, "small", 2))
    await guard.aclose()
    assert all(isinstance(result, IsolationEnded) for result in await asyncio.gather(*handling))
    assert not guard.is_alone(large)


@pytest.mark.parametrize(("lane", "isolated"), [("acme", False), ("acme.orders", True)])
async def test_a_death_in_isolation_isolates_a_destination_and_no_tenant(
    site: Site, tmp_path: Path, lane: str, isolated: bool
) -> None:
    """An operational event has no destination, so it alone is counted."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    await registry.count_isolated_death(_message(site, "acme", 1, lane=lane))

    assert registry.is_suspect(_message(site, "acme", 2)) is isolated
    assert registry.is_alone(_message(site, "acme", 2)) is isolated
    assert not registry.is_suspect(_message(site, "acme", 3, lane="acme.other"))


@pytest.mark.parametrize("is_ready", [False, True])
async def test_an_isolated_process_ends_with_its_consumer(site: Site, is_ready: bool) -> None:
    """Also when NATS is down, and then in either state."""
    own_end, child_end = socket.socketpair()
    if not is_ready:
        await site.server.kill()
    process = await asyncio.create_subprocess_exec(
        *(*ISOLATED, str(child_end.fileno())),
        env=site.environ_of("consumer") | {"PATH": os.environ["PATH"]},
        pass_fds=(child_end.fileno(),),
        stderr=asyncio.subprocess.PIPE,
    )
    child_end.close()
    reader, writer = await asyncio.open_unix_connection(sock=own_end)
    assert process.stderr is not None
    if is_ready:
        await reader.readexactly(4)  # the empty frame
        await site.server.kill()
    while b"nats.disconnected" not in (line := await process.stderr.readline()) and b"nats.unreachable" not in line:
        assert line

    writer.transport.abort()
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0


async def test_a_destination_is_isolated_from_the_moment_of_the_death(site: Site, tmp_path: Path) -> None:
    """Before JetStream has stored it: what arrives meanwhile would end the consumer."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    poison, later, other = (_message(site, tenant, number) for number, tenant in enumerate(("acme", "acme", "globex")))

    counting = asyncio.create_task(registry.count_isolated_death(poison))
    await asyncio.sleep(0)

    assert [registry.is_alone(one) for one in (later, other)] == [True, False]
    assert not counting.done()
    await counting
    assert [registry.is_alone(one) for one in (later, other)] == [True, False]


async def test_a_death_that_cannot_be_stored_isolates_nothing_for_ever(site: Site, tmp_path: Path) -> None:
    """What is not stored has no end, so the destination is isolated by a later death."""
    registry = SuspectRegistry(site.jetstream.suspects, tmp_path)
    await site.server.kill()

    with pytest.raises(JetStreamError):
        await registry.count_isolated_death(_message(site, "acme", 1))

    assert not registry.is_suspect(_message(site, "acme", 2))
