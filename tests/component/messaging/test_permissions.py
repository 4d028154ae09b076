"""Permissions with the shipped server configuration: required operations work, and all others are refused."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from pathlib import Path

import pytest

from messaging import direct_get
from messaging.admin.permissions import publisher
from messaging.client.connection import IncomingMessage, NatsConnection, connect
from messaging.client.errors import NotAllowed
from messaging.client.permission_violations import PermissionViolation
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from messaging.pull_consumer import fetch
from schemas import streams
from tests.support.secured import Keys, ShippedServer

STREAMS = tuple(stream.name.removeprefix("ONEPROTECT_").lower() for stream in streams.STREAMS)
BUCKETS = tuple(bucket.name.removeprefix("oneprotect_") for bucket in streams.BUCKETS)

# Streams whose messages a role may read, subjects it may publish to, buckets it may read and write, and what else.
MAY = {
    "api": {
        "read": "work overflow ordered retries attempts failed delivered events",
        "publish": "requested overflow ordered event",
        "look up": "destinations credentials credential_status health activity tokens replays named_ids removals",
        "write": "destinations credentials credential_status tokens replays named_ids",
        "pull": "",
        "also": "info control line move follow trim decide replay",
        "hear": "kv attempted serve",
    },
    "consumer": {
        "read": "work overflow ordered attempts retries failed",
        "publish": "requested overflow ordered scheduled due attempted failed delivered quarantined event",
        "look up": "destinations credentials credential_status health activity rates leases suspects replays named_ids",
        "write": "destinations credential_status health activity rates leases suspects named_ids",
        "pull": "work retries ordered",
        "also": "info stand line purge delete move answer decide keep",
        "hear": "kv control",
    },
    "operator": {
        "read": "work overflow ordered retries attempts failed delivered quarantine events",
        "publish": "requested overflow ordered due event",
        "look up": (
            "destinations credentials credential_status health activity rates leases tokens suspects replays named_ids "
            "removals"
        ),
        "write": "destinations credentials credential_status health tokens replays named_ids removals",
        "pull": "",
        "also": "info control line move apply remove delete follow trim decide replay",
        "hear": "kv attempted",
    },
    "publisher_acme": dict.fromkeys(("read", "publish", "look up", "write", "pull", "also", "hear"), ""),
    "producer_acme": dict.fromkeys(("read", "publish", "look up", "write", "pull", "also", "hear"), ""),
}

EXCEPTIONS = {
    ("MSG.DELETE", streams.OVERFLOW.name): ("also", "move"),
    ("MSG.DELETE", streams.WORK.name): ("also", "delete"),
    ("PURGE", streams.OVERFLOW.name): ("also", "purge"),
    **{
        ("MSG.DELETE", stream.name): ("also", "remove") for stream in (streams.ORDERED, streams.RETRIES, streams.EVENTS)
    },
    **{("PURGE", stream.name): ("also", "remove") for stream in (streams.ATTEMPTS, streams.FAILED, streams.QUARANTINE)},
    ("PURGE", streams.DELIVERED.name): ("also", "trim"),
    **{("CREATE.CONSUMER", stream.name): ("also", "follow") for stream in (streams.FAILED, streams.DELIVERED)},
    **{
        ("MSG.GET", stream.name): ("also", "decide")
        for stream in (streams.WORK, streams.ORDERED, streams.ATTEMPTS, streams.RETRIES)
    },
    ("MSG.GET", streams.FAILED.name): ("also", "keep"),
    ("MSG.GET", streams.OVERFLOW.name): ("also", "replay"),
    **{("PURGE", f"KV_{bucket.name}"): ("also", "remove") for bucket in streams.TENANT_BUCKETS},
    ("NAMES", streams.ORDERED.name): ("also", "remove"),
    ("DELETE.CONSUMER", streams.ORDERED.name): ("also", "remove"),
}
"""Operations that a role may perform on one stream only."""


def _name(stream: str) -> str:
    return f"ONEPROTECT_{stream.upper()}"


def _everything() -> Iterator[tuple[str, str, str]]:
    """Return the possible operations: kind of permission, its object, and the subject."""
    yield from _publishing()
    yield from _reading()
    for stream in [*map(_name, STREAMS), *(f"KV_oneprotect_{bucket}" for bucket in BUCKETS)]:
        yield from _administering(stream)
    yield "also", "apply", "$JS.API.CONSUMER.CREATE.ONEPROTECT_WORK.delivery.oneprotect.delivery.requested.*.*"
    yield "also", "stand", "$JS.API.CONSUMER.CREATE.ONEPROTECT_ORDERED.l.oneprotect.delivery.ordered.globex.orders"
    yield "also", "stand", "$JS.API.CONSUMER.INFO.ONEPROTECT_ORDERED.l"
    yield "also", "line", "oneprotect.control.line.globex.orders.more"
    yield "nobody", "all of it", "$JS.API.CONSUMER.CREATE.ONEPROTECT_OVERFLOW.f.oneprotect.delivery.overflow.globex.x"
    yield "nobody", "all of it", "$JS.API.CONSUMER.CREATE.ONEPROTECT_FAILED.x.oneprotect.delivery.failed.>"
    yield "nobody", "all of it", "$JS.API.STREAM.LIST"
    yield "nobody", "all of it", "$JS.API.STREAM.CREATE.MINE"
    yield "also", "control", "oneprotect.control.secrets.refresh"
    yield "also", "control", "oneprotect.control.credentials.check"
    for other in ("api", "operator"):
        yield "also", "answer", f"_INBOX_{other}.x"
    for other in ("consumer", "publisher_acme", "publisher_globex"):
        yield "nobody", "answer", f"_INBOX_{other}.x"
    yield "nobody", "system", "$SYS.REQ.SERVER.PING"
    yield "nobody", "anything else", "other.subject"
    yield "nobody", "service of others", "oneprotect.api.v1.globex.deliveries"
    yield "nobody", "announcing", "oneprotect.kv.oneprotect_destinations.globex.x"


def _publishing() -> Iterator[tuple[str, str, str]]:
    for kind in ("requested", "overflow", "ordered", "due", "delivered"):
        yield "publish", kind, f"oneprotect.delivery.{kind}.globex.orders"
    for kind in ("scheduled", "attempted", "failed"):
        yield "publish", kind, f"oneprotect.delivery.{kind}.globex.orders.x"
    yield "publish", "quarantined", "oneprotect.delivery.quarantined.requested.globex.orders"
    yield "publish", "event", "oneprotect.event.config.changed.globex.x"


def _reading() -> Iterator[tuple[str, str, str]]:
    for stream in STREAMS:
        yield "read", stream, f"$JS.API.DIRECT.GET.{_name(stream)}"
        yield "read", stream, f"$JS.API.DIRECT.GET.{_name(stream)}.oneprotect.x"
        yield "also", "info", f"$JS.API.STREAM.INFO.{_name(stream)}"
        kind, what = EXCEPTIONS.get(("CREATE.CONSUMER", _name(stream)), ("pull", stream))
        yield kind, what, f"$JS.API.CONSUMER.MSG.NEXT.{_name(stream)}.delivery"
        yield "pull", stream, f"$JS.ACK.{_name(stream)}.delivery.1.1.1.1.0"
    for bucket in BUCKETS:
        yield "look up", bucket, f"$JS.API.DIRECT.GET.KV_oneprotect_{bucket}"
        yield "look up", bucket, f"$JS.API.DIRECT.GET.KV_oneprotect_{bucket}.$KV.oneprotect_{bucket}.globex.x"
        yield "write", bucket, f"$KV.oneprotect_{bucket}.globex.x"


def _administering(stream: str) -> Iterator[tuple[str, str, str]]:
    yield "also", "apply", f"$JS.API.STREAM.CREATE.{stream}"
    yield "also", "apply", f"$JS.API.STREAM.UPDATE.{stream}"
    for verb in ("DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE", "PEER.REMOVE", "LEADER.STEPDOWN"):
        kind, what = EXCEPTIONS.get((verb, stream), ("nobody", verb))
        yield kind, what, f"$JS.API.STREAM.{verb}.{stream}"
    for verb in ("LIST", "NAMES", "CREATE"):
        kind, what = EXCEPTIONS.get((verb, stream), ("nobody", verb))
        yield kind, what, f"$JS.API.CONSUMER.{verb}.{stream}"
    for verb in ("DELETE", "PAUSE", "RESET", "LEADER.STEPDOWN", "CREATE", "DURABLE.CREATE"):
        kind, what = EXCEPTIONS.get((f"{verb}.CONSUMER", stream), ("nobody", verb))
        yield kind, what, f"$JS.API.CONSUMER.{verb}.{stream}.delivery"


def _heard() -> Iterator[tuple[str, str]]:
    """Return the possible subscriptions and the kind of permission for each."""
    yield "kv", "oneprotect.kv.oneprotect_destinations.>"
    yield "attempted", "oneprotect.delivery.attempted.*.*.*"
    yield "serve", "oneprotect.api.v1.*.deliveries"
    yield "control", "oneprotect.control.secrets.refresh"
    yield "control", "oneprotect.control.credentials.check"
    for subject in (
        ">",
        "_INBOX.>",
        "_INBOX_x.>",
        "oneprotect.>",
        "$JS.>",
        "$KV.>",
        "$SYS.>",
        "$JS.EVENT.>",
    ):
        yield "nobody", subject
    for kind in ("requested", "overflow", "ordered", "due", "failed.*", "quarantined.*", "scheduled.*"):
        yield "nobody", f"oneprotect.delivery.{kind}.*.*"
    yield "nobody", "$KV.oneprotect_destinations.>"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A key for every role."""
    return Keys(
        tmp_path_factory.mktemp("roles") / "keys", ["acme", "globex"], trusted=[publisher("acme"), publisher("globex")]
    )


@contextlib.asynccontextmanager
async def _as(
    keys: Keys, server: ShippedServer, role: str
) -> AsyncGenerator[tuple[NatsConnection, list[PermissionViolation]]]:
    """A connection with this role, and the list of its violations."""
    denied: list[PermissionViolation] = []
    async with connect(keys.access(role, server.url), name=role) as connection:
        connection.permissions.on_violation(denied.append)
        yield connection, denied


async def _ignore(_: IncomingMessage) -> None:
    """Drop the message."""


def _subjects(denied: Iterable[PermissionViolation], verb: str) -> set[str]:
    return {denial.subject for denial in denied if denial.verb == verb}


def test_every_kind_of_subject_is_covered() -> None:
    """A stream that is added has to be thought of here, too."""
    kinds = {subject.split(".")[-1 - subject.count("*") - subject.count(">")] for subject in _subjects_of_streams()}

    assert kinds == {kind for _, kind, _ in _publishing()}


def _subjects_of_streams() -> list[str]:
    return [subject for stream in streams.STREAMS for subject in stream.subjects]


@pytest.mark.parametrize("role", MAY)
async def test_a_role_may_publish_what_it_needs_and_nothing_else(role: str, keys: Keys, tmp_path: Path) -> None:
    """The server refuses exactly the operations that the table does not give to the role."""
    may = {kind: set(names.split()) for kind, names in MAY[role].items()}
    async with ShippedServer(tmp_path / "nats", keys) as server, _as(keys, server, role) as (connection, denied):
        for _, _, subject in _everything():
            await connection.publish(subject, b"{}")
        await connection.flush()

    expected = {subject.lower() for kind, of, subject in _everything() if of not in may.get(kind, set())}
    assert _subjects(denied, "publish") == expected
    assert len(expected) > 100


@pytest.mark.parametrize("role", MAY)
async def test_a_role_may_subscribe_to_what_it_needs_and_nothing_else(role: str, keys: Keys, tmp_path: Path) -> None:
    """A role receives its own replies and subscriptions, and no messages of another role."""
    may = MAY[role]["hear"].split()
    inboxes = {f"{one.inbox_prefix}.>" for one in keys.roles}
    own = f"{keys.role(role).inbox_prefix}.>"
    listened = [*_heard(), ("own", own), *(("nobody", inbox) for inbox in inboxes)]
    async with ShippedServer(tmp_path / "nats", keys) as server, _as(keys, server, role) as (connection, denied):
        for _, subject in listened:
            await connection.subscribe(subject, _ignore)
        await connection.flush()

    expected = {subject.lower() for kind, subject in listened if kind not in may and subject != own}
    assert _subjects(denied, "subscription") == expected


@pytest.mark.parametrize("kind", ["requested", "overflow"])
async def test_a_trusted_publisher_may_publish_for_its_own_tenant_only(kind: str, keys: Keys, tmp_path: Path) -> None:
    """The server stores requests of the publisher's tenant and refuses those of others at once."""
    async with ShippedServer(tmp_path / "nats", keys) as server:
        async with _as(keys, server, "operator") as (connection, _):
            stream = streams.WORK if kind == "requested" else streams.OVERFLOW
            config = {"name": stream.name, "subjects": list(stream.subjects)}
            await connection.api(f"STREAM.CREATE.{stream.name}", config)
        async with _as(keys, server, "publisher_acme") as (connection, _), JetStreamPublisher(connection) as publishing:
            stored = await publishing.publish(Publication(f"oneprotect.delivery.{kind}.acme.orders", b"{}", {}))
            began = time.monotonic()
            with pytest.raises(NotAllowed, match=rf"lacks publish on oneprotect\.delivery\.{kind}\.globex\.orders"):
                await publishing.publish(Publication(f"oneprotect.delivery.{kind}.globex.orders", b"{}", {}))
            took_s = time.monotonic() - began

    assert stored.seq == 1
    assert took_s < 4, "an answer, and no time-out (5 s)"


async def test_the_server_rejects_unknown_keys(keys: Keys, tmp_path: Path) -> None:
    """Missing keys, unknown keys and foreign server certificates prevent the connection."""
    strangers = Keys(tmp_path / "strangers")
    async with ShippedServer(tmp_path / "nats", keys) as server:
        known = keys.access("api", server.url)
        for access in (
            type(known)(url=server.url, ca_file=known.ca_file),
            type(known)(url=server.url, ca_file=known.ca_file, nkey_file=strangers.seed("api")),
            type(known)(url=server.url, ca_file=strangers.authority.ca_file, nkey_file=known.nkey_file),
        ):
            with pytest.raises(Exception, match="NATS is unreachable"):
                async with connect(access, name="stranger"):
                    pass


def _asks(connection: NatsConnection) -> Iterator[Awaitable[object]]:
    yield connection.api(f"STREAM.INFO.{streams.WORK.name}")
    yield direct_get.get_last(connection, streams.WORK.name, "oneprotect.delivery.requested.acme.orders")
    yield anext(direct_get.scan_last(connection, "KV_oneprotect_destinations", "$KV.oneprotect_destinations.>"))
    yield fetch(connection, stream=streams.WORK.name, consumer="delivery", batch=1)


async def test_permission_violations_reach_the_waiting_callers(keys: Keys, tmp_path: Path) -> None:
    """Requests, reads and pulls fail at once and name the missing permission."""
    async with ShippedServer(tmp_path / "nats", keys) as server, _as(keys, server, "publisher_acme") as (connection, _):
        async with asyncio.timeout(15):  # each would take 5 s
            for ask in _asks(connection):
                before = connection.permissions.count
                with pytest.raises(NotAllowed, match="not allowed: this user lacks publish on \\$JS"):
                    await ask
                assert connection.permissions.count > before


async def test_a_forbidden_inbox_is_reported(keys: Keys, tmp_path: Path) -> None:
    """The error names the wrong inbox prefix for requests and publications."""
    async with ShippedServer(tmp_path / "nats", keys) as server:
        access = keys.access("publisher_acme", server.url, inbox_prefix="_INBOX_publisher_globex")
        async with (
            asyncio.timeout(10),  # each would take 5 s
            connect(access, name="wrong") as connection,
            JetStreamPublisher(connection) as publishing,
        ):
            publication = Publication("oneprotect.delivery.requested.acme.orders", b"{}", {})
            for attempt in (connection.api("INFO"), publishing.publish(publication), publishing.publish(publication)):
                with pytest.raises(NotAllowed, match="set ONEPROTECT_NATS_INBOX_PREFIX"):
                    await attempt
