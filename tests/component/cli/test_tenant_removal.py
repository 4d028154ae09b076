"""`oneprotect tenant delete`: nothing of the tenant is left, and no other tenant notices."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from messaging import direct_get
from messaging.admin.permissions import publisher
from messaging.client.errors import RejectedByServer
from messaging.publication import Publication
from oneprotect.bootstrap.resources import open_jetstream
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import streams, subjects
from schemas.configuration import ReplayFilter
from schemas.events import CONTENT_TYPE
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id
from tests.component.conftest import RunHere
from tests.support.api import running
from tests.support.commandline import CommandLine
from tests.support.receiver import Scripted
from tests.support.secured import Keys, ShippedServer
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until

NEIGHBOUR = f"{TENANT}-2"
"""A tenant whose name begins with that of the removed one."""
OF_TENANT = re.compile(rb"(?<![a-z0-9-])acme(?![a-z0-9-])")
AUDIT = f"oneprotect.event.config.changed.{TENANT}.tenant.{TENANT}"


def test_every_stream_has_subjects_of_a_tenant() -> None:
    """A stream that is added must be part of the removal."""
    assert list(subjects.held_for(TENANT)) == [stream.name for stream in streams.STREAMS]


@contextlib.asynccontextmanager
async def shipped_site(directory: Path, **settings: str) -> AsyncGenerator[tuple[Site, Keys]]:
    """A site with the shipped configuration of NATS, under the operator's user."""
    keys = Keys(directory / "keys", trusted=[publisher(TENANT)])
    async with ShippedServer(directory / "nats", keys) as server:
        operator = _names(keys.settings("operator", server.url))
        async with Site(directory, server, **operator, **settings) as site:
            yield site, keys


def _names(environ: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("ONEPROTECT_").lower(): value for name, value in environ.items()}


async def remains(site: Site) -> list[str]:
    """Return what any stream or bucket has of the tenant, by its subject."""
    found: list[str] = []
    names = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
    for name in names:
        async for record in direct_get.scan(site.jetstream.connection, name, ">"):
            text = record.data + record.subject.encode() + repr(record.headers).encode()
            if OF_TENANT.search(text) and record.subject != AUDIT:
                found.append(f"{name}: {record.subject}")
    return found


async def add_neighbour(site: Site, url: str) -> None:
    """Set up the other tenant."""
    write_sample_secrets(
        site.directory / "secrets", namespace=NAMESPACE, tenant=NEIGHBOUR, names=["neighbour-signing-key"]
    )
    configuration, ref = site.jetstream.configuration, f"k8s://{NAMESPACE}/neighbour-signing-key/signing"
    await configuration.set_credential(NEIGHBOUR, "key", {"secret_ref": ref}, by="test")
    await configuration.set_destination(NEIGHBOUR, "orders", {"url": url, "credential": "key"}, by="test")


async def deliver_to_neighbour(site: Site, stop: asyncio.Event) -> list[str]:
    """Request deliveries of the other tenant until `stop` is set, and return their ids."""
    sent: list[str] = []
    while not stop.is_set():
        delivery = new_delivery_id()
        headers = {HEADER_MSG_ID: subjects.msg_id(NEIGHBOUR, "orders", delivery), "content-type": CONTENT_TYPE}
        data = document("orders", delivery=delivery, tenant=NEIGHBOUR)
        with contextlib.suppress(RejectedByServer):  # the consumer is behind: the subject is full
            await site.jetstream.publisher.publish(Publication(subjects.requested(NEIGHBOUR, "orders"), data, headers))
            sent.append(delivery)
        await asyncio.sleep(0.02)
    return sent


async def fill(site: Site, url: str, broken_url: str) -> None:
    """Give the tenant something in every stream and bucket."""
    await site.destination("orders", url)
    await site.destination("waiting", broken_url, retry_schedule_s=[3600.0])
    await site.destination("failing", broken_url, retry_schedule_s=[])
    await site.destination("slow", url, rate_per_s=0.01)
    await site.destination("line", broken_url, ordering="fifo", retry_schedule_s=[3600.0])
    for destination, count in (("orders", 10), ("waiting", 10), ("failing", 5), ("slow", 25), ("line", 5)):
        for _ in range(count):
            await site.deliver(destination)
    await site.publish("orders", b"not JSON", "dlv_x")
    jetstream = site.jetstream
    replay, row = await jetstream.replayer.begin(TENANT, ReplayFilter(), by="test")
    await jetstream.replays.put(f"{TENANT}.{replay}", msgspec.json.encode(row))
    await jetstream.token_bucket.put(f"{TENANT}.a.session-b", b"digest")


@pytest.mark.timeout(180)
async def test_a_removed_tenant_leaves_nothing_and_its_neighbour_loses_nothing(
    tmp_path: Path, command_line: CommandLine
) -> None:
    """While another tenant's deliveries run, everything of a tenant is deleted under the operator's own user."""
    stop = asyncio.Event()
    async with (
        shipped_site(tmp_path, work_per_destination="5") as (site, keys),
        Scripted() as receiver,
        Scripted([500]) as broken,
        site.consumer_process(environ=keys.settings("consumer", site.server.url)) as process,
        running(site, ready=True, **_names(keys.settings("api", site.server.url))) as api,
    ):
        await until(lambda: process.says("consumer.started"), 20)
        await add_neighbour(site, receiver.url)
        producer = await api.client("producer", "viewer")
        everywhere = await api.client("operator", "viewer", tenant="*")
        sending = asyncio.create_task(deliver_to_neighbour(site, stop))
        await fill(site, receiver.url, broken.url)
        as_consumer = site.load(**_names(keys.settings("consumer", site.server.url)))
        async with open_jetstream(as_consumer, name="test") as jetstream:
            for bucket in (jetstream.activity, jetstream.health, jetstream.rates, jetstream.leases):
                await bucket.put(f"{TENANT}.orders", b"{}")
        await until(lambda: len(broken.ids()) >= 16, 30)

        async def is_quarantined() -> bool:
            return bool(await site.records(streams.QUARANTINE))

        await until(is_quarantined, 30)
        removing = asyncio.create_task(
            command_line.run(
                site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, "tenant", "delete", TENANT, "--yes", "--json"
            )
        )

        async def is_closed() -> bool:
            answer = await everywhere("GET", f"/v1/tenants/{TENANT}/destinations")
            return answer.status == 403

        await until(is_closed, 20)
        revoked = await producer("GET", f"/v1/tenants/{TENANT}/attempts")
        removed = await removing
        reopened = await everywhere("GET", f"/v1/tenants/{TENANT}/destinations")
        left = await remains(site)
        stop.set()
        sent = await sending
        await until(lambda: set(sent) <= set(receiver.ids()), 20)
        audit = [record for record in await site.records(streams.EVENTS) if record.subject == AUDIT]
        neighbour = await site.jetstream.configuration.list_destinations(NEIGHBOUR)
        quiet = len(broken.ids())
        refusals = [line for line in (tmp_path / "nats").rglob("*.log") if b"Violation" in line.read_bytes()]

    assert removed.code == 0, removed.err
    assert left == []
    moving = {streams.WORK.name, streams.OVERFLOW.name}
    assert set(removed.json["deleted"]) >= {stream.name for stream in streams.STREAMS} - moving
    assert set(removed.json["deleted"]) >= {
        "oneprotect_destinations",
        "oneprotect_credentials",
        "oneprotect_tokens",
        "oneprotect_replays",
    }
    assert len(removed.json["to_do"]) == 4
    assert revoked.status in (401, 403)
    assert (reopened.status, reopened.json["items"]) == (200, [])
    assert len(audit) == 1
    assert b'"kind":"tenant"' in audit[0].data
    assert [view.id for view in neighbour] == ["orders"]
    assert len(sent) > 50
    assert len(broken.ids()) == quiet
    assert refusals == []


async def test_without_yes_nothing_is_deleted(site: Site, oneprotect: RunHere) -> None:
    """The command shows what it would delete."""
    await site.destination("orders", "http://127.0.0.1:1234/")
    await site.deliver("orders")

    shown = await oneprotect("tenant", "delete", TENANT)
    counted = await oneprotect("tenant", "delete", TENANT, "--json")
    unknown = await oneprotect("tenant", "delete", "nothing", "--json")
    refused = await oneprotect("tenant", "delete", "No Tenant")

    assert (shown.code, "ONEPROTECT_WORK" in shown.out, "--yes" in shown.err) == (0, True, True)
    assert counted.json["found"] == {
        "ONEPROTECT_WORK": 1,
        "ONEPROTECT_EVENTS": 2,
        "oneprotect_destinations": 1,
        "oneprotect_credentials": 1,
        "oneprotect_credential_status": 1,
    }
    assert unknown.json == {"tenant": "nothing", "removed": False, "found": {}}
    assert refused.code == 2
    assert (await site.jetstream.configuration.list_destinations(TENANT)) != []


async def test_a_removal_needs_no_consumer_and_can_be_repeated(site: Site, oneprotect: RunHere) -> None:
    """With no consumer, API or data, the command does its part as well."""
    await site.destination("orders", "http://127.0.0.1:1234/")
    await site.deliver("orders")

    removed = await oneprotect("tenant", "delete", TENANT, "--yes")
    again = await oneprotect("tenant", "delete", TENANT, "--yes", "--json")

    assert (removed.code, "Still to do" in removed.out) == (0, True)
    assert (again.code, again.json["removed"], again.json["deleted"]) == (0, True, {})
    assert await remains(site) == []


@pytest.mark.timeout(120)
async def test_an_interrupted_removal_keeps_the_tenant_closed_and_continues(
    site: Site, oneprotect: RunHere, receiver: Scripted
) -> None:
    """An attempt in flight stores its result after the tenant's data was deleted; the removal waits for it."""
    await site.destination("orders", receiver.url, timeout_s=30.0)
    receiver.hold = asyncio.Event()
    async with site.consumer_process() as consumer, running(site) as api:
        await until(lambda: consumer.says("consumer.started"), 20)
        client = await api.client("producer", tenant="*")
        request = {"destination": "orders", "event_type": "a.b", "payload": 1}
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        environ = site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}
        first = await Process.start(environ, "tenant", "delete", TENANT, "--yes")
        await until(lambda: first.says("deliveries in hand: 1"), 30)
        first.kill()
        await first.wait()
        closed = await client("POST", f"/v1/tenants/{TENANT}/deliveries", request)
        second = asyncio.ensure_future(oneprotect("tenant", "delete", TENANT, "--yes", "--json"))
        await asyncio.wait([second], timeout=8)
        was_waiting = not second.done()
        receiver.hold.set()
        removed = await second
        unknown = await client("POST", f"/v1/tenants/{TENANT}/deliveries", request)
        left = await remains(site)

    assert (closed.status, was_waiting) == (403, True)
    assert removed.code == 0, removed.err
    assert left == []
    assert unknown.status == 422, "the tenant has no destination of this name"
