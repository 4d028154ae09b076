"""What a tenant's NATS user can reach with the shipped configuration: the service of its tenant, and nothing else."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from messaging.admin import topology
from messaging.admin.manifests import TENANT_LIMITS, conf_fields, tenant_account
from messaging.admin.nkeys import write_key
from messaging.admin.permissions import NatsRole, producer, publisher
from messaging.client.connection import NatsConnection, connect
from schemas import streams, subjects
from tests.isolation.raw_nats import RawNats, raw_nats
from tests.support.secured import Keys, ShippedServer
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT: Final = "acme"
OTHER: Final = "globex"
SPY: Final = NatsRole(
    name="spy", purpose="receives all messages of the account", publish=(), subscribe=("_INBOX_spy.>", ">")
)
SERVICE: Final = subjects.deliveries(TENANT)
HARMLESS: Final = re.compile(r"oneprotect\.api\.v1\.acme\.deliveries|_R_\..{5,}|\$JS\.EVENT\..+")
"""Requests of the tenant, the server's own reply subjects, and advisories."""


def _stored() -> Iterator[str]:
    """Return a subject of the other tenant in every bucket and stream."""
    for bucket in streams.BUCKETS:
        yield f"$KV.{bucket.name}.{OTHER}.x"
    for stream in streams.STREAMS:
        for pattern in stream.subjects:
            yield pattern.replace("*", OTHER, 1).replace("*", "x").replace(">", f"{OTHER}.x")


def _forbidden() -> list[str]:
    """Return subjects of every kind that a tenant must not reach."""
    requests = [f"$JS.API.STREAM.{verb}.{stream.name}" for stream in streams.STREAMS for verb in ("INFO", "PURGE")]
    requests += [f"$JS.API.DIRECT.GET.KV_{bucket.name}.$KV.{bucket.name}.{OTHER}.x" for bucket in streams.BUCKETS]
    return [
        *_stored(),
        *requests,
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.CONSUMER.MSG.NEXT.ONEPROTECT_WORK.delivery",
        "$JS.ACK.ONEPROTECT_WORK.delivery.1.1.1.1.0",
        *(f"_INBOX_{role}.x" for role in ("api", "consumer", "operator")),
        *(f"oneprotect.kv.{bucket.name}.{OTHER}.x" for bucket in streams.BUCKETS),
        subjects.REFRESH,
        subjects.CHECK,
        subjects.line(OTHER, "x", "now"),
        subjects.deliveries(OTHER),
        "$SRV.PING",
        "$SRV.STATS",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.ONEPROTECT.CONNZ",
        "$SYS.REQ.USER.INFO",
        "_R_.x",
    ]


PATTERNS: Final = (">", "*", "oneprotect.>", "oneprotect.api.v1.*.deliveries", "oneprotect.api.v1.acme.>", "$SYS.>")
PATTERNS_OF_THE_PRODUCT: Final = ("$JS.>", "$KV.>", "$SRV.>", "_R_.>", "_INBOX_api.>", "_INBOX*.>", "oneprotect.kv.>")
ODD: Final = (
    b"oneprotect.api.v1.*.deliveries",
    b"oneprotect.api.v1.>",
    b"oneprotect.api.v1.\xff\xfe.deliveries",
    b"oneprotect.api.v1..deliveries",
    b"oneprotect.api.v1.acme.deliveries.x",
    b"oneprotect.api.v1.acme",
    b"oneprotect.api.v1.ACME.deliveries",
    b"oneprotect.api.v1.acme\x00.deliveries",
    b".",
    b"..",
    b"oneprotect..x",
)


class Scene:
    """A server with the shipped configuration and streams, a spy in the product's account, and a responder."""

    def __init__(self, keys: Keys, server: ShippedServer, operator: NatsConnection, spy: RawNats, api: RawNats) -> None:
        self.keys = keys
        self.server = server
        self._operator = operator
        self._spy = spy
        self._api = api

    async def stored(self) -> dict[str, int]:
        """Return the last sequence of each stream and bucket."""
        names = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
        infos = [await self._operator.api(f"STREAM.INFO.{name}") for name in names]
        return {name: info["state"]["last_seq"] for name, info in zip(names, infos, strict=True)}

    async def seen(self) -> set[str]:
        """Return the subjects of messages in the product's account since the last call, other than the scene's own."""
        await self._spy.flush()
        found = {message.subject for message in self._spy.received if not HARMLESS.fullmatch(message.subject)}
        self._spy.received.clear()
        return found

    def as_user(self, name: str = f"producer_{TENANT}") -> contextlib.AbstractAsyncContextManager[RawNats]:
        """Connect as a user."""
        return raw_nats(self.keys.access(name, self.server.url))

    async def respond(self) -> None:
        """Answer every request, as the API does."""
        answered = 0
        while not self._api.is_closed:
            await asyncio.sleep(0.002)
            for request in self._api.received[answered:]:
                if request.reply:
                    self._api.publish(request.reply, request.subject.encode())
            answered = len(self._api.received)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Scene]:
    """Return the scene, with one tenant that attacks and one that does nothing."""
    directory = tmp_path_factory.mktemp("accounts")
    keys = Keys(directory / "keys", [TENANT, OTHER], trusted=[publisher(TENANT), SPY])
    async with (
        ShippedServer(directory / "nats", keys) as server,
        connect(keys.access("operator", server.url), name="operator") as operator,
        raw_nats(keys.access("spy", server.url)) as spy,
        raw_nats(keys.access("api", server.url)) as api,
    ):
        await topology.apply(operator, replicas=1, work_per_destination=1000, ack_wait_s=30)
        api.subscribe(subjects.deliveries("*"))
        spy.subscribe(">")
        await asyncio.gather(api.flush(), spy.flush())
        opened = Scene(keys, server, operator, spy, api)
        responding = asyncio.create_task(opened.respond())
        yield opened
        responding.cancel()


async def test_a_response_returns_to_the_tenant_on_its_own_reply_subject(scene: Scene) -> None:
    """The service sees a reply subject that the server made, so it cannot reach a subject that the tenant chose."""
    async with scene.as_user() as tenant:
        tenant.subscribe("_INBOX.mine")
        tenant.publish(SERVICE, b"{}", reply="_INBOX.mine")
        await tenant.flush()
        await until(lambda: tenant.received)

    assert tenant.received[0].data == SERVICE.encode()
    assert tenant.errors == []


@pytest.mark.parametrize("way", ["publish", "reply", "subscribe", "trace", "schedule"])
async def test_a_tenant_reaches_no_subject_of_the_product(scene: Scene, way: str) -> None:
    """Nothing arrives in the product's account, by any field of a message that names a subject."""
    before = await scene.stored()
    await scene.seen()
    async with scene.as_user() as tenant:
        for subject in _forbidden():
            match way:
                case "publish":
                    tenant.publish(subject, b"{}", reply="_INBOX.mine")
                case "reply":
                    tenant.publish(SERVICE, b"{}", reply=subject)
                case "subscribe":
                    tenant.subscribe(subject)
                case "trace":
                    tenant.publish(SERVICE, b"{}", headers=b"Nats-Trace-Dest: %b\r\n" % subject.encode())
                case _:
                    schedule = b"Nats-Schedule: @every 1s\r\nNats-Schedule-Target: %b\r\n" % subject.encode()
                    tenant.publish(SERVICE, b"{}", headers=schedule)
        await tenant.flush()

    assert await scene.seen() == set()
    assert await scene.stored() == before
    assert way not in ("publish", "subscribe") or len(tenant.errors) == len(_forbidden())


async def test_a_tenant_subscribes_to_nothing_but_its_inbox(scene: Scene) -> None:
    """The server refuses every pattern that covers more, and delivers no request of another tenant."""
    await scene.seen()
    async with scene.as_user() as tenant, scene.as_user(f"producer_{OTHER}") as other:
        for pattern in PATTERNS + PATTERNS_OF_THE_PRODUCT:
            tenant.subscribe(pattern)
        tenant.subscribe("_INBOX.>")
        await tenant.flush()
        other.subscribe("_INBOX.>")
        other.publish(subjects.deliveries(OTHER), b"private", reply="_INBOX.secret")
        await other.flush()
        await until(lambda: other.received)
        await tenant.flush()

    assert len(tenant.errors) == len(PATTERNS + PATTERNS_OF_THE_PRODUCT)
    assert tenant.received == []
    assert await scene.seen() == {subjects.deliveries(OTHER)}


async def test_odd_subjects_reach_no_service(scene: Scene) -> None:
    """Wildcards, empty tokens, bytes that are not UTF-8 and other tenants' names are refused, and only there."""
    await scene.seen()
    async with scene.as_user() as neighbour:
        for subject in ODD:
            async with scene.as_user() as tenant:
                tenant.subscribe("_INBOX.mine")
                tenant.publish(subject, b"{}", reply="_INBOX.mine")
                await tenant.flush()
                assert [one for one in tenant.received if one.status != "503"] == [], subject
        neighbour.subscribe("_INBOX.mine")
        neighbour.publish(SERVICE, reply="_INBOX.mine")
        await neighbour.flush()
        await until(lambda: neighbour.received)

    assert await scene.seen() == set()


async def test_the_server_limits_the_connections_of_one_tenant(scene: Scene) -> None:
    """The first connection beyond the limit is refused, and another tenant still connects."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(scene.as_user()) for _ in range(TENANT_LIMITS["max_connections"] + 1)]
        other = await stack.enter_async_context(scene.as_user(f"producer_{OTHER}"))
        refused = [one for one in opened if one.is_closed]
        assert not other.is_closed

    assert len(refused) == 1
    assert "maximum account active connections exceeded" in refused[0].errors[0].lower()


async def test_the_server_limits_the_copies_of_each_reply(scene: Scene) -> None:
    """The API's connection makes a copy of a reply for each subscription, so a connection has few."""
    async with scene.as_user() as tenant:
        for number in range(TENANT_LIMITS["max_subscriptions"] + 1):
            tenant.subscribe(f"_INBOX.{number}")
        await tenant.flush()

    assert ["maximum subscriptions exceeded" in error.lower() for error in tenant.errors] == [True]


async def test_an_account_imports_the_service_of_its_own_name_only(tmp_path: Path) -> None:
    """A server refuses a configuration in which an account imports the service of another tenant."""
    keys = Keys(tmp_path / "keys", [TENANT])
    server = ShippedServer(tmp_path / "nats", keys)
    async with server:
        pass
    key = keys.public[f"producer_{TENANT}"]
    valid, swapped = tenant_account(TENANT, key), {OTHER: tenant_account(TENANT, key)[TENANT]}

    assert server.check(conf_fields(valid)) == ""
    assert "service import not authorized" in server.check(conf_fields(swapped))
    assert server.check(conf_fields(tenant_account("42", key))) == "", "a name of digits is a name"


async def test_without_an_api_the_tenant_learns_it_at_once(tmp_path: Path) -> None:
    """The server answers 503 while no API process runs, so a request is never lost in silence."""
    keys = Keys(tmp_path / "keys", [TENANT])
    async with (
        ShippedServer(tmp_path / "nats", keys) as server,
        raw_nats(keys.access(f"producer_{TENANT}", server.url)) as tenant,
    ):
        tenant.subscribe("_INBOX.mine")
        tenant.publish(SERVICE, b"{}", reply="_INBOX.mine")
        await tenant.flush()
        await until(lambda: tenant.received)

    assert [message.status for message in tenant.received] == ["503"]


async def test_a_trusted_publisher_can_write_where_it_may_not_publish(scene: Scene) -> None:
    """The server writes acknowledgements to any reply subject, so tenants are not in the product's account."""
    row = f"$KV.{streams.DESTINATIONS.name}.{OTHER}.x"
    before = await scene.stored()
    async with scene.as_user(f"publisher_{TENANT}") as trusted:
        trusted.publish(row, b"mine")
        await trusted.flush()
        refused = list(trusted.errors)
        trusted.publish(subjects.requested(TENANT, "orders"), b"{}", reply=row)
        await trusted.flush()

        async def is_written() -> bool:
            after = await scene.stored()
            return after["KV_oneprotect_destinations"] == before["KV_oneprotect_destinations"] + 1

        await until(is_written)

    assert len(refused) == 1


async def test_an_account_that_is_removed_loses_its_connections(tmp_path: Path) -> None:
    """A reload of the configuration ends the access of a tenant at once, and adds another tenant."""
    keys = Keys(tmp_path / "keys", [TENANT, OTHER])
    async with ShippedServer(tmp_path / "nats", keys) as server:
        gone, kept = (keys.access(f"producer_{tenant}", server.url) for tenant in (TENANT, OTHER))
        async with raw_nats(gone) as tenant, raw_nats(kept) as other:
            rest = conf_fields(tenant_account(OTHER, keys.public[f"producer_{OTHER}"]))
            assert server.check(rest) == ""  # and the file has this content from here on
            server.signal(signal.SIGHUP)
            await until(lambda: tenant.is_closed)
            await other.flush()
            assert not other.is_closed
        async with raw_nats(gone) as again:
            assert again.is_closed


async def test_a_tenant_that_is_added_is_served_after_a_second_reload(tmp_path: Path) -> None:
    """nats-server 2.15 adds an account at a reload without its imports, and the imports at the next reload.

    If the first reload is enough one day, the second one in `deploy/nats/README.md` and in the help text can go.
    """
    keys = Keys(tmp_path / "keys", [TENANT])
    async with ShippedServer(tmp_path / "nats", keys) as server, raw_nats(keys.access("api", server.url)) as api:
        api.subscribe(subjects.deliveries("*"))
        await api.flush()
        added = keys.producers[OTHER] = producer(OTHER)
        keys.public[added.name] = write_key(keys.seed(added.name))
        tenants = [tenant_account(name, keys.public[role.name]) for name, role in keys.producers.items()]
        assert server.check("".join(f"{conf_fields(tenant)}\n" for tenant in tenants)) == ""
        answers: list[list[str]] = []
        for _ in range(2):
            await server.reload()
            async with raw_nats(keys.access(added.name, server.url)) as tenant:
                tenant.subscribe("_INBOX.x")
                tenant.publish(subjects.deliveries(OTHER), b"{}", reply="_INBOX.x")
                await tenant.flush()
                await api.flush()
                answers.append([message.status for message in tenant.received])

    assert answers == [["503"], []]
    assert [message.data for message in api.received] == [b"{}"]
