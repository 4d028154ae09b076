"""What tenants configure, as it is kept in the key-value buckets (contract, sections 3 and 8). Never a secret value."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from schemas.codes import CredentialStatus
from schemas.ids import CredentialId, EventType, Purpose

DEFAULT_RETRY_SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
MAX_TIMEOUT_S: Final = 30.0

Seconds = Annotated[float, Meta(gt=0, le=259_200, description="Seconds, at most three days.")]
RetrySchedule = Annotated[tuple[Seconds, ...], Meta(max_length=32)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$(?!\n)")]
HeaderValue = Annotated[str, Meta(pattern=r"^[ -~]{0,1024}$(?!\n)")]


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """When a failed attempt is tried again: one wait before each further attempt, so one more attempt than waits."""

    schedule_s: RetrySchedule = DEFAULT_RETRY_SCHEDULE_S
    jitter: Annotated[float, Meta(ge=0, lt=1, description="Each wait is spread by this share to both sides.")] = 0.2


class Destination(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a tenant's deliveries go: a URL, the credential that signs them, and a policy. Key: `<tenant>.<id>`."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    credential: CredentialId
    event_types: tuple[Annotated[str, Meta(max_length=128)], ...] = ()
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=32)] = {}
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1, le=1024)] | None = None
    rate_per_s: Annotated[float, Meta(gt=0)] | None = None
    retry_schedule_s: RetrySchedule | None = None
    capture_response: bool = False
    forward_trace: bool = False
    description: Annotated[str, Meta(max_length=1024)] = ""
    enabled: bool = True
    disabled_reason: str | None = None
    disabled_at: datetime | None = None


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A purpose and the ref of the Secret that serves it. The ref is written and never shown."""

    secret_ref: Annotated[str, Meta(max_length=512)]
    purpose: Purpose = Purpose.WEBHOOK_SIGNING


class CredentialState(Struct, frozen=True, kw_only=True):
    """What the consumers last found out about a credential."""

    status: CredentialStatus = CredentialStatus.UNCHECKED
    provider: str | None = None
    checked_at: datetime | None = None
    version: str | None = None
    rollover_active: bool = False
    rollover_expires_at: datetime | None = None


class ReplayFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which deliveries a replay takes. Every given condition must hold; an empty tuple is no condition."""

    destination: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    codes: tuple[str, ...] = ()
    event_types: tuple[EventType, ...] = ()
    ids: tuple[str, ...] = ()


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
