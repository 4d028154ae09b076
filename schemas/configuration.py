"""What tenants configure, as it is kept in the key-value buckets (contract, sections 3 and 8). Never a secret value."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from schemas.codes import Code, CredentialStatus
from schemas.ids import CredentialId, DestinationId, EventType, Purpose, TenantId

DEFAULT_RETRY_SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
MAX_TIMEOUT_S: Final = 30.0
MAX_HEADERS_BYTES: Final = 4096
"""All custom headers of a destination as they go over the wire: `name: value` and a line end each."""
DENIED_HEADERS: Final = (
    "webhook-*",
    "host",
    "content-*",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "proxy-*",
    "user-agent",
    "expect",
    "cookie",
    "accept-encoding",
    "traceparent",
    "x-forwarded-*",
    "metadata*",
    "x-aws-ec2-metadata-token*",
)
"""Headers that no tenant sets, in lower case; `*` is any ending. The sender sets them, they steer the connection or
proxies on the way, or they unlock a cloud's metadata service."""
HEADER_NAME_PATTERN: Final = r"^[A-Za-z0-9-]{1,64}$(?!\n)"
HEADER_VALUE_PATTERN: Final = r"^[ -~]{0,1024}$(?!\n)"
EVENT_PATTERN: Final = r"^(\*|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\.\*)?)$(?!\n)"

Revision = Annotated[int, Meta(ge=0, description="Another one after each change; its `ETag` over HTTP.")]
Seconds = Annotated[float, Meta(gt=0, le=259_200, description="Seconds, at most three days.")]
RetrySchedule = Annotated[tuple[Seconds, ...], Meta(max_length=32)]
EventPattern = Annotated[
    str,
    Meta(
        pattern=EVENT_PATTERN,
        max_length=128,
        description="An event type, all of a kind, or `*` for all.",
        examples=["invoice.paid", "invoice.*", "*"],
    ),
]
HeaderName = Annotated[str, Meta(pattern=HEADER_NAME_PATTERN)]
HeaderValue = Annotated[str, Meta(pattern=HEADER_VALUE_PATTERN)]


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """When a failed attempt is tried again: one wait before each further attempt, so one more attempt than waits."""

    schedule_s: RetrySchedule = DEFAULT_RETRY_SCHEDULE_S
    jitter: Annotated[float, Meta(ge=0, lt=1, description="Each wait is spread by this share to both sides.")] = 0.2
    after_timeout_s: Annotated[
        float,
        Meta(ge=0, description="The least wait after a time-out: who is too slow is not helped by being hurried."),
    ] = 60.0


class DestinationSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant decides about a destination. Raises `ValueError` with the rule when its headers break one."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    credential: CredentialId
    event_types: Annotated[tuple[EventPattern, ...], Meta(max_length=128)] = ()
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=32)] = {}
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1, le=1024)] | None = None
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    retry_schedule_s: RetrySchedule | None = None
    ordering: Annotated[
        Literal["any", "fifo"],
        Meta(description="`fifo`: one at a time, in the order of publishing; what fails holds up what comes after it."),
    ] = "any"
    capture_response: bool = False
    forward_trace: bool = False
    description: Annotated[str, Meta(max_length=1024)] = ""

    def __post_init__(self) -> None:
        if problem := _problem_with(self.headers):
            raise ValueError(problem)


class Destination(DestinationSpec, frozen=True, kw_only=True):
    """Where a tenant's deliveries go: a URL, the credential that signs them, and a policy. Key: `<tenant>.<id>`."""

    enabled: bool = True
    disabled_reason: str | None = None
    disabled_at: datetime | None = None


class DestinationView(Destination, frozen=True, kw_only=True):
    """A destination as it is read."""

    id: DestinationId
    tenant: TenantId
    revision: Revision = 0


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A purpose and the ref of the Secret that serves it. The ref is written and never shown."""

    secret_ref: Annotated[str, Meta(max_length=512)]
    purpose: Purpose = Purpose.WEBHOOK_SIGNING


class Health(Struct, frozen=True, kw_only=True):
    """How a destination has been answering lately, as all consumers together see it. Key: `<tenant>.<id>`."""

    consecutive_failures: int = 0
    failing_since: Annotated[datetime, Meta(description="The first failure since the last success.")] | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_code: Code | None = None
    open_until: Annotated[datetime, Meta(description="Until then nothing is sent: attempts wait.")] | None = None
    openings: Annotated[int, Meta(description="How often in a row it has been given a rest.")] = 0
    warnings: Annotated[int, Meta(description="How often in a row its failing was told.")] = 0
    trial_by: Annotated[str | None, Meta(description="The consumer that tries, after a rest, whether it is back.")] = (
        None
    )
    trial_until: Annotated[datetime | None, Meta(description="Until then no other one does.")] = None


class Rollover(Struct, frozen=True, kw_only=True):
    """Whether a previous key signs beside the current one, and until when."""

    active: bool = False
    expires_at: datetime | None = None
    misconfigured: Annotated[
        bool, Meta(description="There is a previous key that can't sign: no valid expiry, no key, or the current one.")
    ] = False


class CredentialState(Struct, frozen=True, kw_only=True):
    """What the consumers last found out about a credential."""

    status: CredentialStatus = CredentialStatus.UNCHECKED
    provider: str | None = None
    checked_at: datetime | None = None
    version: str | None = None
    rollover: Rollover = Rollover()


class CredentialView(Struct, frozen=True, kw_only=True):
    """A credential as it is read: all about it but the ref."""

    id: CredentialId
    tenant: TenantId
    purpose: Purpose
    provider: str | None = None
    status: CredentialStatus = CredentialStatus.UNCHECKED
    checked_at: datetime | None = None
    version: Annotated[str, Meta(description="`uid/resourceVersion` of the Secret.")] | None = None
    rollover: Rollover = Rollover()
    revision: Revision = 0


KeptOutcome = Literal["failed", "skipped", "delivered"]


class ReplayFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which deliveries a replay takes. Every given condition must hold; an empty tuple is no condition.

    `outcomes`: how they ended. With none given, those that failed or were skipped; those that were delivered are kept
    elsewhere, so they are replayed by themselves. Raises `ValueError` when they are named with others.
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
            raise ValueError("`outcomes`: `delivered` is replayed by itself, without `failed` and `skipped`")

    @property
    def takes_delivered(self) -> bool:
        """Whether it is about deliveries that were taken, and not those that failed or were skipped."""
        return "delivered" in self.outcomes


class ReplayState(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Replay(Struct, frozen=True, kw_only=True):
    """One replay and its progress, so that it can be resumed. Key: `<tenant>.<replay id>`."""

    filter: ReplayFilter
    by: str
    started_at: datetime
    until_sequence: Annotated[int, Meta(description="The last kept delivery that belongs to it, by stream sequence.")]
    cursor: Annotated[int, Meta(description="Everything up to this stream sequence is done.")] = 0
    replayed: int = 0
    skipped: int = 0
    state: ReplayState = ReplayState.RUNNING
    cancelled_by: str | None = None
    cancelled_from: Annotated[str, Meta(description="The address of who cancelled it, as far as known.")] | None = None
    ended_at: Annotated[datetime, Meta(description="When it was finished or cancelled.")] | None = None
    rate_per_s: Annotated[float, Meta(gt=0, description="Deliveries a second, at most.")] | None = None
    unattended: Annotated[
        bool, Meta(description="API processes run it, and another one goes on with it when one of them ends.")
    ] = False
    total: Annotated[int, Meta(description="Kept deliveries that it looks at, counted when it began.")] | None = None
    address: Annotated[str, Meta(description="From where it was asked for.")] | None = None


def _problem_with(headers: dict[str, str]) -> str | None:
    """The rule that `headers` break, if any, with nothing of them in it."""
    names = [name.lower() for name in headers]
    if len(set(names)) < len(names):
        return "`headers` name the same header twice; case makes no difference"
    for rule in DENIED_HEADERS:
        if any(_falls_under(rule, name) for name in names):
            return f"`headers` can't set `{rule}`: no destination may"
    if sum(len(name) + len(value) + 4 for name, value in headers.items()) > MAX_HEADERS_BYTES:
        return f"`headers` take more than {MAX_HEADERS_BYTES} bytes in all"
    return None


def _falls_under(rule: str, name: str) -> bool:
    return name.startswith(rule[:-1]) if rule.endswith("*") else name == rule
