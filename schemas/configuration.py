"""The configuration of tenants in the key-value buckets (contract, sections 3 and 8), without secret values."""

import functools
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from schemas.codes import Code, CredentialStatus
from schemas.ids import CredentialId, DestinationId, EventType, Purpose, TenantId

DEFAULT_RETRY_SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
MAX_TIMEOUT_S: Final = 30.0
MAX_HEADERS_BYTES: Final = 4096
"""Limit for all custom headers of a destination on the wire: `name: value` and a line end each."""
DENIED_HEADERS: Final = (
    "webhook-*",
    "host",
    "content-*",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "proxy-*",
    "via",
    "user-agent",
    "expect",
    "cookie",
    "accept-encoding",
    "traceparent",
    "tracestate",
    "forwarded",
    "x-forwarded*",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-*",
    "x-rewrite-url",
    "x-host",
    "x-http-*",
    "x-method-override",
    "x-envoy-*",
    "true-client-ip",
    "cf-connecting-ip",
    "metadata*",
    "x-google-metadata-request",
    "x-aws-ec2-metadata-token*",
    "x-identity-header",
)
"""Headers that tenants cannot set, in lower case; `*` is a wildcard. The sender sets them, or they control connections,
proxies, the routing behind a proxy, or a cloud's metadata service."""
HEADER_NAME_PATTERN: Final = r"^[A-Za-z0-9-]{1,64}$(?!\n)"
HEADER_VALUE_PATTERN: Final = r"^[ -~]{0,1024}$(?!\n)"
EVENT_PATTERN: Final = r"^(\*|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\.\*)?)$(?!\n)"

Revision = Annotated[int, Meta(ge=0, description="Changes with each update; the `ETag` over HTTP.")]
Seconds = Annotated[float, Meta(gt=0, le=259_200, description="Seconds, at most three days.")]
RetrySchedule = Annotated[tuple[Seconds, ...], Meta(max_length=32)]
EventPattern = Annotated[
    str,
    Meta(
        pattern=EVENT_PATTERN,
        max_length=128,
        description="An event type, a group such as `invoice.*`, or `*` for all.",
        examples=["invoice.paid", "invoice.*", "*"],
    ),
]
HeaderName = Annotated[str, Meta(pattern=HEADER_NAME_PATTERN)]
HeaderValue = Annotated[str, Meta(pattern=HEADER_VALUE_PATTERN)]


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """The retry schedule: one wait before each further attempt, so there is one more attempt than waits."""

    schedule_s: RetrySchedule = DEFAULT_RETRY_SCHEDULE_S
    jitter: Annotated[float, Meta(ge=0, lt=1, description="Each wait varies by this share in both directions.")] = 0.2
    after_timeout_s: Annotated[
        float,
        Meta(ge=0, description="Shortest wait after a time-out, so that a slow receiver can recover."),
    ] = 60.0


class DestinationSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a destination that tenants set. Raises `ValueError` for headers that break a rule."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            description="Where deliveries go. Values of its query are write-only: they read as `***`.",
        ),
    ]
    credential: CredentialId
    event_types: Annotated[tuple[EventPattern, ...], Meta(max_length=128)] = ()
    headers: Annotated[
        dict[HeaderName, HeaderValue],
        Meta(max_length=32, description="Values are write-only: they read as `***`, and `***` keeps the stored value."),
    ] = {}
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1, le=1024)] | None = None
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    retry_schedule_s: RetrySchedule | None = None
    ordering: Annotated[
        Literal["any", "fifo"],
        Meta(
            description="`fifo`: one at a time, in the order of publishing; a failing delivery blocks the later ones."
        ),
    ] = "any"
    capture_response: bool = False
    forward_trace: bool = False
    description: Annotated[str, Meta(max_length=1024)] = ""

    def __post_init__(self) -> None:
        if problem := _broken_rule(self.headers):
            raise ValueError(problem)


class Destination(DestinationSpec, frozen=True, kw_only=True):
    """A destination: URL, signing credential and delivery policy. Key: `<tenant>.<id>`.

    A stored destination may be older than a rule for headers. A header that is denied now is left out.
    """

    enabled: bool = True
    disabled_reason: str | None = None
    disabled_at: datetime | None = None

    def __post_init__(self) -> None:
        if any(_denying_rule(name) for name in self.headers):
            allowed = {name: value for name, value in self.headers.items() if not _denying_rule(name)}
            force_setattr(self, "headers", allowed)


class DestinationView(Destination, frozen=True, kw_only=True):
    """A destination with its id, tenant and revision."""

    id: DestinationId
    tenant: TenantId
    revision: Revision = 0


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A purpose and the ref of its Secret. The ref is never shown."""

    secret_ref: Annotated[str, Meta(max_length=512)]
    purpose: Purpose = Purpose.WEBHOOK_SIGNING


class Health(Struct, frozen=True, kw_only=True):
    """The health of a destination, as all consumers together see it. Key: `<tenant>.<id>`."""

    consecutive_failures: int = 0
    failing_since: Annotated[datetime, Meta(description="The first failure since the last success.")] | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_code: Code | None = None
    open_until: Annotated[datetime, Meta(description="The circuit breaker is open until then.")] | None = None
    openings: Annotated[int, Meta(description="Consecutive times that the circuit breaker opened.")] = 0
    warnings: Annotated[int, Meta(description="Warnings published since the last success.")] = 0
    trial_by: Annotated[str | None, Meta(description="The consumer that sends half-open probes.")] = None
    trial_until: Annotated[datetime | None, Meta(description="Until then no other consumer sends probes.")] = None


class Rollover(Struct, frozen=True, kw_only=True):
    """The previous key that signs beside the current one, if there is one, and its expiry."""

    active: bool = False
    expires_at: datetime | None = None
    misconfigured: Annotated[
        bool, Meta(description="The previous key cannot sign: no valid expiry, malformed, or equal to the current key.")
    ] = False


class CredentialState(Struct, frozen=True, kw_only=True):
    """The result of the last check of a credential."""

    status: CredentialStatus = CredentialStatus.UNCHECKED
    provider: str | None = None
    checked_at: datetime | None = None
    version: str | None = None
    rollover: Rollover = Rollover()
    resuming_since: datetime | None = None


class StoredCredentialState(CredentialState, frozen=True, kw_only=True):
    """The row of a credential's state, with what only consumers need."""

    changed_at: datetime | None = None
    """When another status was stored."""
    unread_since: datetime | None = None
    """Since when a consumer cannot read the Secret, which others have read."""
    resumed_at: datetime | None = None
    """When the last completed resumption began."""


class CredentialView(Struct, frozen=True, kw_only=True):
    """A credential without its ref."""

    id: CredentialId
    tenant: TenantId
    purpose: Purpose
    provider: str | None = None
    status: CredentialStatus = CredentialStatus.UNCHECKED
    checked_at: datetime | None = None
    version: Annotated[str, Meta(description="`uid/resourceVersion` of the Secret.")] | None = None
    rollover: Rollover = Rollover()
    resuming_since: Annotated[
        datetime | None, Meta(description="Since when deliveries that waited for the secret are being resumed.")
    ] = None
    revision: Revision = 0


KeptOutcome = Literal["failed", "skipped", "delivered"]


class ReplayFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The deliveries of a replay. All conditions must hold; an empty tuple is no condition.

    `outcomes`: by default `failed` and `skipped`. `delivered` is in another stream and cannot be combined with others.
    """

    destination: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    codes: tuple[str, ...] = ()
    event_types: tuple[EventType, ...] = ()
    ids: tuple[str, ...] = ()
    outcomes: tuple[KeptOutcome, ...] = ()

    def __post_init__(self) -> None:
        if "delivered" in self.outcomes and len(set(self.outcomes)) > 1:
            raise ValueError("`outcomes`: `delivered` cannot be combined with `failed` or `skipped`")

    @property
    def takes_delivered(self) -> bool:
        """True for a replay of delivered deliveries."""
        return "delivered" in self.outcomes


class ReplayState(StrEnum):
    """The state of a replay."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Replay(Struct, frozen=True, kw_only=True):
    """A replay and its progress. Key: `<tenant>.<replay id>`."""

    filter: ReplayFilter
    by: str
    started_at: datetime
    until_sequence: Annotated[int, Meta(description="Stream sequence of the last delivery of the replay.")]
    cursor: Annotated[int, Meta(description="Stream sequence up to which the replay is done.")] = 0
    replayed: int = 0
    skipped: int = 0
    state: ReplayState = ReplayState.RUNNING
    cancelled_by: str | None = None
    cancelled_from: Annotated[str, Meta(description="Network address that cancelled it, if known.")] | None = None
    ended_at: Annotated[datetime, Meta(description="End of the replay.")] | None = None
    rate_per_s: Annotated[float, Meta(gt=0, description="Limit of deliveries per second.")] | None = None
    unattended: Annotated[
        bool, Meta(description="API processes run the replay; another process resumes it when one ends.")
    ] = False
    total: Annotated[int, Meta(description="Deliveries to examine, counted at the start.")] | None = None
    address: Annotated[str, Meta(description="Network address that requested it, if known.")] | None = None


def _broken_rule(headers: dict[str, str]) -> str | None:
    """Return the rule that the headers break, without any input, or None."""
    names = [name.lower() for name in headers]
    if len(set(names)) < len(names):
        return "`headers` contain a header twice; names are case-insensitive"
    if rule := next(filter(None, map(_denying_rule, names)), None):
        return f"`headers` cannot set `{rule}`"
    if sum(len(name) + len(value) + 4 for name, value in headers.items()) > MAX_HEADERS_BYTES:
        return f"`headers` exceed {MAX_HEADERS_BYTES} bytes in total"
    return None


@functools.lru_cache(maxsize=1024)
def _denying_rule(name: str) -> str | None:
    """Return the rule that denies a header, or None."""
    name = name.lower()
    return next(
        (rule for rule in DENIED_HEADERS if name == rule or (rule[-1] == "*" and name.startswith(rule[:-1]))), None
    )
