"""Checks of the NATS server: version, JetStream, storage, round-trip time, and clock."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from messaging import management
from messaging.client.client import ServerAccess
from messaging.client.connection import MIN_SERVER_VERSION, NatsConnection
from messaging.client.errors import JetStreamError, RejectedByServer, ServerTooOld, ServerUnavailable
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult
from schemas import streams

SLOW_S: Final = 0.25
ROUND_TRIPS: Final = 5
SKEW_WARNING_S: Final = 5.0
SKEW_FAILED_S: Final = 60.0
"""Receivers reject signatures more than five minutes away from their own clock, which may also be wrong."""

NEARLY_FULL: Final = 0.8
FULL: Final = 0.95

_GROUP = CheckGroup("nats")
_TIME: Final = Annotated[datetime, Meta(tz=True)]
_REQUIRED_VERSION = ".".join(map(str, MIN_SERVER_VERSION))


def report_unreachable(access: ServerAccess, error: ServerUnavailable) -> CheckResult:
    """Return the result for a server that cannot be reached."""
    lines = ["check that the server runs and that this host can reach it: nats --server URL rtt"]
    if access.creds_file is None and access.nkey_file is None:
        lines.append("if it requires credentials: set ONEPROTECT_NATS_NKEY_FILE or ONEPROTECT_NATS_CREDS_FILE")
    if access.ca_file is None and not access.url.startswith("nats://"):
        lines.append("if a private CA issued its certificate: set ONEPROTECT_NATS_CA_FILE")
    return _GROUP.failed("reachable", str(error), "\n".join(lines))


def check_version(connection: NatsConnection) -> CheckResult:
    """Check that the server supports scheduled messages, which retries need."""
    try:
        connection.require_version()
    except ServerTooOld as error:
        return _GROUP.failed("version", str(error), f"upgrade nats-server to {_REQUIRED_VERSION} or newer")
    return _GROUP.ok("version", f"{_REQUIRED_VERSION} or newer, as required")


async def check_jetstream(connection: NatsConnection) -> CheckResult:
    """Check that this account may use JetStream. Raises `JetStreamError` for other problems."""
    finding, remedy = "", ""
    try:
        await management.account_info(connection)
    except ServerUnavailable as error:
        finding = f"JetStream does not reply: {error}"
        remedy = "enable it in the server's configuration: jetstream { store_dir: /data }"
    except RejectedByServer as error:
        finding = f"this account may not use JetStream: {error}"
        remedy = "enable it for the account of these credentials: nsc edit account ACCOUNT --js-enable 1"
    return _GROUP.failed("jetstream", finding, remedy) if finding else _GROUP.ok("jetstream", "enabled")


async def check_storage(connection: NatsConnection) -> CheckResult:
    """Check storage, streams and consumers against the account's limits. Raises `JetStreamError`."""
    info = await management.account_info(connection)
    limits = info["limits"]
    shares = {
        resource: info[resource] / limits[f"max_{resource}"]
        for resource in ("storage", "memory", "streams", "consumers")
        if limits[f"max_{resource}"] > 0
    }
    used_mb = info["storage"] / 1e6
    fullest = max(shares, key=lambda resource: shares[resource], default=None)
    if fullest is None:
        return _GROUP.ok("storage", f"{used_mb:.0f} MB on disk; the account has no limit, only the server's disk")
    finding = f"{fullest} at {shares[fullest]:.0%} of the account's limit; {used_mb:.0f} MB on disk"
    if shares[fullest] < NEARLY_FULL:
        return _GROUP.ok("storage", finding)
    report = _GROUP.warning if shares[fullest] < FULL else _GROUP.failed
    return report(
        "storage",
        f"{finding}; at the limit, nothing can be stored, and the API refuses delivery requests",
        "raise the account's limits, or purge stored results: nats stream purge ONEPROTECT_ATTEMPTS --keep 100000\n"
        "see docs/how-to/runbooks.md#a-full-disk",
    )


async def check_sizes(connection: NatsConnection, installation: InstallationSettings) -> CheckResult:
    """Check that the sizes of the streams and the quotas of a tenant fit together. Raises `JetStreamError`."""
    limit = int((await management.account_info(connection))["limits"]["max_storage"])
    reserved = installation.limits.reserved_bytes * installation.replicas
    needed = reserved + installation.tenant_bytes * installation.replicas
    finding = f"{reserved / 1e9:.1f} GB reserved for records, {needed / 1e9:.1f} GB with the quotas of one tenant"
    if limit <= 0:
        return _GROUP.ok("sizes", f"{finding}; the account has no limit, so the API cannot keep room for results")
    if needed <= limit:
        return _GROUP.ok("sizes", f"{finding}, of {limit / 1e9:.1f} GB")
    return _GROUP.warning(
        "sizes",
        f"{finding}, but the account has {limit / 1e9:.1f} GB: one tenant can use up the room of all",
        "raise the account's limit, or lower ONEPROTECT_*_MAX_BYTES, ONEPROTECT_TENANT_MAX_WAITING_BYTES and "
        "ONEPROTECT_TENANT_MAX_FAILED_BYTES",
    )


async def check_round_trip(connection: NatsConnection) -> CheckResult:
    """Measure the shortest of several round trips to the server."""
    best_s = math.inf
    for _ in range(ROUND_TRIPS):
        started_at = monotonic()
        await connection.flush()
        best_s = min(best_s, monotonic() - started_at)
    if not connection.is_connected:
        return _GROUP.unknown("round trip", "the connection was lost during the check", "run the doctor again")
    finding = f"{best_s * 1000:.1f} ms"
    if best_s <= SLOW_S:
        return _GROUP.ok("round trip", finding)
    return _GROUP.warning(
        "round trip",
        f"{finding}: each delivery waits for several round trips",
        "run consumers close to the server, and check the network: nats --server URL rtt",
    )


async def check_clock(connection: NatsConnection, now: Callable[[], datetime]) -> CheckResult:
    """Compare this host's clock with the server's, from the time in a reply."""
    asked_at = now()
    info = await _any_stream(connection)
    replied_at = now()
    time = None if info is None else info.ts
    if time is None:
        return _GROUP.unknown("clock", "no stream exists, so the server's time is unknown", "oneprotect apply")
    uncertainty_s = (replied_at - asked_at).total_seconds() / 2
    skew_s = (time - asked_at).total_seconds() - uncertainty_s
    finding = f"this host's clock is {abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead of'} the server's"
    remedy = "find the wrong clock, and synchronize it with chrony or systemd-timesyncd: timedatectl status"
    if abs(skew_s) <= SKEW_WARNING_S + uncertainty_s:
        return _GROUP.ok("clock", "this host and the server agree within 5 s")
    if abs(skew_s) <= SKEW_FAILED_S + uncertainty_s:
        return _GROUP.warning("clock", finding, remedy)
    return _GROUP.failed(
        "clock", f"{finding}; receivers reject signatures that are minutes old or in the future", remedy
    )


async def _any_stream(connection: NatsConnection) -> management.StreamInfo | None:
    for stream in streams.STREAMS:
        if info := await management.find_stream(connection, stream.name):
            return info
    return None


def parse_server_time(text: object) -> datetime | None:
    """Parse a time in a server's reply, to UTC. Returns None for anything else."""
    try:
        time: datetime = msgspec.convert(text, _TIME)
    except msgspec.ValidationError:
        return None
    return time.astimezone(UTC)


def report_unanswered(group: str, error: JetStreamError | TimeoutError) -> CheckResult:
    """Return the result for a group whose requests to NATS failed."""
    reason = str(error) or "no reply in time"
    return CheckGroup(group).unknown(
        "examined",
        f"NATS did not answer: {reason}",
        "run the doctor again; if it persists, check what this user may publish and subscribe to",
    )


def report_skipped(group: str, reason: str) -> CheckResult:
    """Return the result for a group that was not checked."""
    return CheckGroup(group).unknown("examined", reason)
