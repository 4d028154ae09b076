"""Check of the servers' durability: what a stored message survives, as docs/explanation/durability.md describes."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from consumers.credentials.control_client import ask_all
from messaging import management
from messaging.admin.manifests import MAJORITY
from messaging.client.connection import NatsConnection
from oneprotect.doctor.result import CheckGroup, CheckResult
from schemas import streams, subjects

LONGEST_SYNC_S: Final = 10.0

_GROUP = CheckGroup("nats")
_NAME: Final = "durability"
_REMEDY: Final = (
    "choose a durability: oneprotect nats files --output DIR --durability fsync\n"
    "copy DIR/durability.conf to every server, and restart the servers one by one; see docs/explanation/durability.md"
)


class Anything(Struct, frozen=True):
    """A request without options."""


class SyncConfig(Struct, frozen=True):
    """When a server writes to disk."""

    sync_interval: int = 0
    """In nanoseconds."""
    sync_always: bool = False


class _JetStream(Struct, frozen=True):
    config: SyncConfig | None = None


class _Data(Struct, frozen=True):
    server_name: str
    jetstream: _JetStream = _JetStream()


class ServerState(Struct, frozen=True):
    """A server's reply about itself: the part that matters here."""

    data: _Data


async def check_durability(connection: NatsConnection) -> CheckResult:
    """Ask every server when it writes to disk, and compare with the replicas. Raises `JetStreamError`."""
    replies = await ask_all(connection, subjects.SERVERS, Anything(), ServerState)
    stream = await management.find_stream(connection, streams.WORK.name)
    return judge((reply.data.jetstream.config for reply in replies), 1 if stream is None else _replicas(stream))


def _replicas(stream: management.StreamInfo) -> int:
    return int(stream.config.get("num_replicas", 1))


def judge(reported: Iterable[SyncConfig | None], replicas: int) -> CheckResult:
    """Return the result for the settings of all servers; a server without JetStream reports None."""
    configs = [config for config in reported if config is not None]
    if not configs:
        return _GROUP.unknown(
            _NAME,
            "no server reports when it writes to disk, so a power failure may lose what was stored before",
            "let the product's account import the state of the servers, as deploy/nats/accounts.conf does\n"
            "or look yourself: nats server request jetstream --config; see docs/explanation/durability.md",
        )
    if all(config.sync_always for config in configs):
        return _GROUP.ok(_NAME, f"fsync: a message is on disk before it is acknowledged; {_copies(replicas)}")
    longest_s = max(config.sync_interval / management.NANOSECONDS for config in configs if not config.sync_always)
    finding = f"{_copies(replicas)}, on disk within {longest_s:g} s"
    if replicas >= MAJORITY and longest_s <= LONGEST_SYNC_S:
        return _GROUP.ok(_NAME, f"replicated: {finding}; a power failure of several servers at once may lose those")
    return _GROUP.warning(_NAME, f"{finding}: a power failure loses what the API has accepted meanwhile", _REMEDY)


def _copies(replicas: int) -> str:
    return "one copy" if replicas == 1 else f"{replicas} copies"
