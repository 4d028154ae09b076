"""The events on NATS: CloudEvents 1.0 in structured JSON mode (contract, section 3).

The envelope of a request (`DeliveryRequested`) is decoded leniently, because CloudEvents allows extensions. Its `data`
is decoded strictly.
"""

import base64
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from schemas.codes import Code, CredentialStatus, Outcome
from schemas.ids import CredentialId, DeliveryId, DestinationId, EventType, TenantId

CONTENT_TYPE: Final = "application/cloudevents+json"
JSON: Final = "application/json"
OWN_SOURCES: Final = "/oneprotect/"
"""Start of the `source` of what the product itself publishes."""
PING: Final = "oneprotect.ping"
"""Event type of a test delivery, which is attempted once and never stored."""

T = TypeVar("T")

Time = Annotated[datetime, Meta(tz=True)]
Source = Annotated[str, Meta(min_length=1, max_length=1024)]
BodyContentType = Annotated[
    str,
    Meta(
        pattern=r"^[!-~]+(; ?[!-~]+)*$(?!\n)",
        max_length=256,
        description="Printable ASCII, sent to the receiver as it is.",
        examples=["application/json"],
    ),
]


class RequestedData(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The delivery to make, with exactly one of `payload` and `payload_base64`.

    `payload` is JSON and is delivered byte for byte as published. `payload_base64` is any other body and needs
    `content_type`.
    """

    destination: DestinationId
    event_type: EventType
    payload: Annotated[Raw, Meta(description="Any JSON value; its bytes are the body.")] | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: BodyContentType | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.payload is UNSET) == (self.payload_base64 is UNSET):
            raise ValueError("Expected exactly one of `payload` and `payload_base64`")
        if self.payload is UNSET and self.content_type is UNSET:
            raise ValueError("Expected `content_type` beside `payload_base64`")

    def body(self) -> bytes:
        """Return the bytes to sign and send. Raises `ValueError`, without the input, for malformed base64."""
        if isinstance(self.payload, Raw):
            return bytes(self.payload)
        try:
            return base64.b64decode(str(self.payload_base64), validate=True)
        except ValueError:
            raise ValueError("`payload_base64` is not base64") from None

    @property
    def body_content_type(self) -> str:
        """The receiver's `content-type`."""
        return self.content_type if isinstance(self.content_type, str) else JSON


class CloudEvent(Struct, frozen=True, kw_only=True):
    """The attributes of every event. The `id` of a request is its delivery id."""

    id: str
    source: Source
    time: Time
    tenant: TenantId
    specversion: Literal["1.0"]
    datacontenttype: Literal["application/json"] = "application/json"


class DeliveryRequested(CloudEvent, frozen=True, kw_only=True):
    """A request of a producer for a delivery. Published to `oneprotect.delivery.requested.<tenant>.<destination>`."""

    id: DeliveryId
    type: Literal["oneprotect.delivery.requested.v1"]
    data: RequestedData


class AttemptResult(Struct, frozen=True, kw_only=True, gc=False):
    """An attempt, redacted by construction: no ref, no URL path or query, no header, no signature."""

    delivery: DeliveryId
    destination: DestinationId
    event_type: EventType
    attempt: Annotated[int, Meta(ge=1, description="Number of the attempt, from 1; replays continue to count.")]
    outcome: Outcome
    code: Code
    started_at: Time
    duration_ms: Annotated[float, Meta(ge=0)]
    worker: str
    http_status: int | None = None
    retry_after_s: Annotated[float, Meta(description="The receiver's `Retry-After`, in seconds.")] | None = None
    next_attempt_at: Time | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    signed_with: tuple[Literal["current", "previous"], ...] = ()
    secret_version: (
        Annotated[str, Meta(description="`uid/resourceVersion` of the Secret; nothing of its value.")] | None
    ) = None
    replay: str | None = None
    url_host: str | None = None
    response_body: Annotated[str, Meta(description="First 1 KiB, masked; only with `capture_response`.")] | None = None


class DeliveryAttempted(CloudEvent, frozen=True, kw_only=True):
    """The result of one attempt. Stored on `oneprotect.delivery.attempted.<tenant>.<destination>.<bucket>`."""

    data: AttemptResult
    type: Literal["oneprotect.delivery.attempted.v1"] = "oneprotect.delivery.attempted.v1"


class DestinationDisabledData(Struct, frozen=True, kw_only=True):
    """The disabled destination and the reason."""

    destination: DestinationId
    reason: str


class DestinationDisabled(CloudEvent, frozen=True, kw_only=True):
    """A destination that was disabled."""

    data: DestinationDisabledData
    type: Literal["oneprotect.destination.disabled.v1"] = "oneprotect.destination.disabled.v1"


class DestinationFailingData(Struct, frozen=True, kw_only=True):
    """The failing destination, its failures, and when it will be disabled."""

    destination: DestinationId
    failing_since: Time
    consecutive_failures: int
    last_code: Code
    disabled_after: Time


class DestinationFailing(CloudEvent, frozen=True, kw_only=True):
    """A warning, once a day, about a destination without a successful delivery."""

    data: DestinationFailingData
    type: Literal["oneprotect.destination.failing.v1"] = "oneprotect.destination.failing.v1"


class DestinationRecoveredData(Struct, frozen=True, kw_only=True):
    """The recovered destination."""

    destination: DestinationId


class DestinationRecovered(CloudEvent, frozen=True, kw_only=True):
    """A failing destination that works again, or a disabled one that was enabled."""

    data: DestinationRecoveredData
    type: Literal["oneprotect.destination.recovered.v1"] = "oneprotect.destination.recovered.v1"


class CredentialStatusData(Struct, frozen=True, kw_only=True):
    """The result of a check of a credential."""

    credential: CredentialId
    status: CredentialStatus
    previous_status: CredentialStatus


class CredentialStatusChanged(CloudEvent, frozen=True, kw_only=True):
    """A change of a credential's status."""

    data: CredentialStatusData
    type: Literal["oneprotect.credential.status_changed.v1"] = "oneprotect.credential.status_changed.v1"


class ReplayData(Struct, frozen=True, kw_only=True):
    """A replay and its progress."""

    replay: str
    by: Annotated[str, Meta(description="User who started, resumed or cancelled it.")]
    address: Annotated[str, Meta(description="Network address of that user, if known.")] | None = None
    replayed: int = 0
    skipped: int = 0
    state: Literal["running", "finished", "cancelled"] = "running"


class ReplayStarted(CloudEvent, frozen=True, kw_only=True):
    """The start of a replay, or its resumption."""

    data: ReplayData
    type: Literal["oneprotect.replay.started.v1"] = "oneprotect.replay.started.v1"


class ReplayFinished(CloudEvent, frozen=True, kw_only=True):
    """The end of a replay: finished or cancelled."""

    data: ReplayData
    type: Literal["oneprotect.replay.finished.v1"] = "oneprotect.replay.finished.v1"


class QuarantineReleasedData(Struct, frozen=True, kw_only=True):
    """Audit: a released message, its subject, and the user who released it."""

    sequence: Annotated[int, Meta(ge=1, description="Sequence in the quarantine stream, where the message stays.")]
    subject: Annotated[str, Meta(description="Subject that the message came from and was published to again.")]
    by: str
    understood: Annotated[bool, Meta(description="True if a consumer can probably decode the message now.")]
    delivery: DeliveryId | None = None


class QuarantineReleased(CloudEvent, frozen=True, kw_only=True):
    """The release of a quarantined message."""

    data: QuarantineReleasedData
    type: Literal["oneprotect.quarantine.released.v1"] = "oneprotect.quarantine.released.v1"


class ConfigChangedData(Struct, frozen=True, kw_only=True):
    """Audit: a change and the user who made it, without the changed values."""

    kind: Literal["destination", "credential", "token", "tenant"]
    name: str
    action: Literal["set", "delete", "enable", "disable", "create", "test"]
    by: str
    address: Annotated[str, Meta(description="Network address of the client, if known.")] | None = None


class ConfigChanged(CloudEvent, frozen=True, kw_only=True):
    """A change of a tenant's configuration."""

    data: ConfigChangedData
    type: Literal["oneprotect.config.changed.v1"] = "oneprotect.config.changed.v1"


OperationalEvent = (
    DestinationDisabled
    | DestinationFailing
    | DestinationRecovered
    | CredentialStatusChanged
    | ReplayStarted
    | ReplayFinished
    | QuarantineReleased
    | ConfigChanged
)

_decode_request = msgspec.json.Decoder(DeliveryRequested).decode
_decode_result = msgspec.json.Decoder(DeliveryAttempted).decode
encode = msgspec.json.Encoder().encode


def decode_request(document: bytes) -> DeliveryRequested:
    """Decode a request. Raises `ValueError` with the field and the rule."""
    return _decode(_decode_request, document)


def decode_result(document: bytes) -> DeliveryAttempted:
    """Decode an attempt result. Raises `ValueError`."""
    return _decode(_decode_result, document)


def _decode(decode: Callable[[bytes], T], document: bytes) -> T:
    # The limit is that of the interpreter's stack, so a document may exceed it in one place and not in another.
    with contextlib.suppress(RecursionError):
        return decode(document)
    raise ValueError("nested too deeply")


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
