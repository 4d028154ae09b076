"""The nats-server: its version, JetStream, how far away it is, and whether its clock and this host's agree."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from messaging import management
from messaging.client.connection import MIN_SERVER_VERSION, NatsConnection
from messaging.client.errors import JetStreamError, RejectedByServer, ServerTooOld, ServerUnavailable
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult
from schemas import subjects

SLOW_S: Final = 0.25
ROUND_TRIPS: Final = 5
SKEW_WARNING_S: Final = 5.0
SKEW_FAILED_S: Final = 60.0
"""Receivers refuse what was signed more than five minutes away from their own clock, which may be off, too."""

NEARLY_FULL: Final = 0.8
FULL: Final = 0.95

_GROUP = CheckGroup("nats")
_TIME: Final = Annotated[datetime, Meta(tz=True)]
_NEEDED = ".".join(map(str, MIN_SERVER_VERSION))


def unreachable(installation: InstallationSettings, error: ServerUnavailable) -> CheckResult:
    """The server can't be reached."""
    lines = ["see that it runs, and that this host may reach it: nats --server URL rtt"]
    if installation.nats_creds_file is None and installation.nats_nkey_file is None:
        lines.append("if it asks for credentials: set ONEPROTECT_NATS_NKEY_FILE or ONEPROTECT_NATS_CREDS_FILE")
    if installation.nats_ca_file is None and not installation.nats_url.startswith("nats://"):
        lines.append("if its certificate is from an authority of your own: set ONEPROTECT_NATS_CA_FILE")
    return _GROUP.failed("reachable", str(error), "\n".join(lines))


def check_version(connection: NatsConnection) -> CheckResult:
    """Whether the server can carry our retry schedules."""
    try:
        connection.require_version()
    except ServerTooOld as error:
        return _GROUP.failed("version", str(error), f"upgrade nats-server to {_NEEDED} or newer")
    return _GROUP.ok("version", f"{_NEEDED} or newer, as is needed")


async def check_jetstream(connection: NatsConnection) -> CheckResult:
    """Whether this account may use JetStream. Raises `JetStreamError` for what is none of these."""
    finding, mending = "", ""
    try:
        await management.account_info(connection)
    except ServerUnavailable as error:
        finding = f"JetStream does not answer: {error}"
        mending = "enable it in the server's configuration: jetstream { store_dir: /data }"
    except RejectedByServer as error:
        finding = f"this account may not use JetStream: {error}"
        mending = "enable it for the account of these credentials: nsc edit account ACCOUNT --js-enable 1"
    return _GROUP.failed("jetstream", finding, mending) if finding else _GROUP.ok("jetstream", "enabled")


async def check_storage(connection: NatsConnection) -> CheckResult:
    """Whether there is room: disk, and streams and consumers, as far as this account has limits. Raises as `api`."""
    info = await management.account_info(connection)
    limits = info["limits"]
    shares = {
        what: info[used] / limits[most]
        for what, used, most in (
            ("storage", "storage", "max_storage"),
            ("memory", "memory", "max_memory"),
            ("streams", "streams", "max_streams"),
            ("consumers", "consumers", "max_consumers"),
        )
        if limits[most] > 0
    }
    used_mb = info["storage"] / 1e6
    fullest = max(shares, key=lambda what: shares[what], default=None)
    if fullest is None:
        return _GROUP.ok("room", f"{used_mb:.0f} MB on disk; the account has no limit, so the server's disk is the one")
    finding = f"{fullest} are at {shares[fullest]:.0%} of the account's limit; {used_mb:.0f} MB on disk"
    if shares[fullest] < NEARLY_FULL:
        return _GROUP.ok("room", finding)
    tell = _GROUP.warning if shares[fullest] < FULL else _GROUP.failed
    return tell(
        "room",
        f"{finding}; when it is full, nothing can be stored, and producers are refused",
        "raise the account's limits, or purge what is only kept: nats stream purge ONEPROTECT_ATTEMPTS --keep 100000\n"
        "see docs/how-to/runbooks.md#a-full-disk",
    )


async def check_round_trip(connection: NatsConnection) -> CheckResult:
    """How long the server takes to answer, at best."""
    best_s = math.inf
    for _ in range(ROUND_TRIPS):
        began_at = monotonic()
        await connection.flush()
        best_s = min(best_s, monotonic() - began_at)
    if not connection.is_connected:
        return _GROUP.unknown("round trip", "the connection was lost meanwhile", "run it again")
    finding = f"{best_s * 1000:.1f} ms"
    if best_s <= SLOW_S:
        return _GROUP.ok("round trip", finding)
    return _GROUP.warning(
        "round trip",
        f"{finding}: every delivery waits for the server several times",
        "run consumers near the server, and see what is on the way: nats --server URL rtt",
    )


async def check_clock(connection: NatsConnection, now: Callable[[], datetime]) -> CheckResult:
    """Whether this host's clock agrees with the server's, as the answer to a question tells its time."""
    asked_at = now()
    info = await _any_stream(connection)
    answered_at = now()
    time = None if info is None else info.ts
    if time is None:
        return _GROUP.unknown("clock", "no stream is there to tell the server's time", "oneprotect apply")
    away_s = (answered_at - asked_at).total_seconds() / 2
    skew_s = (time - asked_at).total_seconds() - away_s
    finding = f"this host's is {abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead of'} the server's"
    mending = "see which one is wrong, and let it be kept right (chrony or systemd-timesyncd): timedatectl status"
    if abs(skew_s) <= SKEW_WARNING_S + away_s:
        return _GROUP.ok("clock", "this host's and the server's agree within 5 s")
    if abs(skew_s) <= SKEW_FAILED_S + away_s:
        return _GROUP.warning("clock", finding, mending)
    return _GROUP.failed(
        "clock", f"{finding}; receivers refuse signatures that are some minutes old or from the future", mending
    )


async def _any_stream(connection: NatsConnection) -> management.StreamInfo | None:
    for stream in subjects.STREAMS:
        if info := await management.find_stream(connection, stream.name):
            return info
    return None


def read_time(text: object) -> datetime | None:
    """A time as the server writes it, in UTC; None when it is none."""
    try:
        time: datetime = msgspec.convert(text, _TIME)
    except msgspec.ValidationError:
        return None
    return time.astimezone(UTC)


def unanswered(group: str, error: JetStreamError | TimeoutError) -> CheckResult:
    """A question that should have been answered, and was not."""
    why = str(error) or "no answer in time"
    return CheckGroup(group).unknown(
        "examined",
        f"NATS could not be asked: {why}",
        "try again; if it stays like this, see what this user may publish and subscribe to",
    )


def skipped(group: str, why: str) -> CheckResult:
    """Nothing that could be asked."""
    return CheckGroup(group).unknown("examined", why)
