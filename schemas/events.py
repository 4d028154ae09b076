"""The events on NATS: CloudEvents 1.0 in structured JSON mode (contract, section 3).

An event is an immutable fact. What a producer publishes (`DeliveryRequested`) is decoded leniently at the envelope, as
CloudEvents asks (extensions are allowed), and strictly in its `data`; what we publish is encoded from the same types.
"""

import base64
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from schemas.codes import Code, CredentialStatus, Outcome
from schemas.ids import CredentialId, DeliveryId, DestinationId, EventType, TenantId

CONTENT_TYPE: Final = "application/cloudevents+json"
JSON: Final = "application/json"
PING: Final = "oneprotect.ping"
"""The event type of a test: it is tried once, and never kept."""
MAX_ENVELOPE_BYTES: Final = 64 * 1024
"""What the document around a payload may take, beside the payload itself."""

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
    """What to deliver: exactly one of `payload` and `payload_base64`.

    `payload` is JSON and is delivered byte for byte as it was published; `payload_base64` is any other body, and then
    `content_type` says what it is.
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
        """The bytes that are signed and sent. Raises `ValueError`, with none of the input in it, on bad base64."""
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
    """The attributes that every event here has. `id` of a request is its delivery id."""

    id: str
    source: Source
    time: Time
    tenant: TenantId
    specversion: Literal["1.0"]
    datacontenttype: Literal["application/json"] = "application/json"


class DeliveryRequested(CloudEvent, frozen=True, kw_only=True):
    """A producer asks for a delivery. Published to `oneprotect.delivery.requested.<tenant>.<destination>`."""

    id: DeliveryId
    type: Literal["oneprotect.delivery.requested.v1"]
    data: RequestedData


class AttemptResult(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, redacted by construction: no ref, no URL path or query, no header, no signature."""

    delivery: DeliveryId
    destination: DestinationId
    event_type: EventType
    attempt: Annotated[int, Meta(ge=1, description="From 1, counting on through replays.")]
    outcome: Outcome
    code: Code
    started_at: Time
    duration_ms: Annotated[float, Meta(ge=0)]
    worker: str
    http_status: int | None = None
    retry_after_s: Annotated[float, Meta(description="What the receiver asked for.")] | None = None
    next_attempt_at: Time | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    signed_with: tuple[Literal["current", "previous"], ...] = ()
    secret_version: (
        Annotated[str, Meta(description="`uid/resourceVersion` of the Secret; nothing of its value.")] | None
    ) = None
    replay: str | None = None
    url_host: str | None = None
    response_body: Annotated[str, Meta(description="First 1 KiB, scrubbed; only with `capture_response`.")] | None = (
        None
    )


class DeliveryAttempted(CloudEvent, frozen=True, kw_only=True):
    """The result of one attempt. Kept on `oneprotect.delivery.attempted.<tenant>.<destination>.<bucket>`."""

    data: AttemptResult
    type: Literal["oneprotect.delivery.attempted.v1"] = "oneprotect.delivery.attempted.v1"


class DestinationDisabledData(Struct, frozen=True, kw_only=True):
    """Which destination, and why it takes no deliveries any more."""

    destination: DestinationId
    reason: str


class DestinationDisabled(CloudEvent, frozen=True, kw_only=True):
    """A destination was disabled."""

    data: DestinationDisabledData
    type: Literal["oneprotect.destination.disabled.v1"] = "oneprotect.destination.disabled.v1"


class DestinationFailingData(Struct, frozen=True, kw_only=True):
    """Which destination, how badly, and when it will be disabled if that goes on."""

    destination: DestinationId
    failing_since: Time
    consecutive_failures: int
    last_code: Code
    disabled_after: Time


class DestinationFailing(CloudEvent, frozen=True, kw_only=True):
    """A warning: a destination has not taken a delivery for a day, or another one."""

    data: DestinationFailingData
    type: Literal["oneprotect.destination.failing.v1"] = "oneprotect.destination.failing.v1"


class DestinationRecoveredData(Struct, frozen=True, kw_only=True):
    """Which destination works again."""

    destination: DestinationId


class DestinationRecovered(CloudEvent, frozen=True, kw_only=True):
    """A destination that had been failing works again, or was enabled again."""

    data: DestinationRecoveredData
    type: Literal["oneprotect.destination.recovered.v1"] = "oneprotect.destination.recovered.v1"


class CredentialStatusData(Struct, frozen=True, kw_only=True):
    """What a consumer found when it checked a credential."""

    credential: CredentialId
    status: CredentialStatus
    previous_status: CredentialStatus


class CredentialStatusChanged(CloudEvent, frozen=True, kw_only=True):
    """A credential's status is another one than before."""

    data: CredentialStatusData
    type: Literal["oneprotect.credential.status_changed.v1"] = "oneprotect.credential.status_changed.v1"


class ReplayData(Struct, frozen=True, kw_only=True):
    """A replay and how far it has come."""

    replay: str
    by: Annotated[str, Meta(description="Who asked for it: for the replay, for going on with it, or to cancel it.")]
    address: Annotated[str, Meta(description="From where, as far as that is known.")] | None = None
    replayed: int = 0
    skipped: int = 0
    state: Literal["running", "finished", "cancelled"] = "running"


class ReplayStarted(CloudEvent, frozen=True, kw_only=True):
    """A replay began, or went on after an interruption."""

    data: ReplayData
    type: Literal["oneprotect.replay.started.v1"] = "oneprotect.replay.started.v1"


class ReplayFinished(CloudEvent, frozen=True, kw_only=True):
    """A replay has come to its end: it has requested everything that it was asked to, or it was cancelled."""

    data: ReplayData
    type: Literal["oneprotect.replay.finished.v1"] = "oneprotect.replay.finished.v1"


class QuarantineReleasedData(Struct, frozen=True, kw_only=True):
    """Audit: who had which quarantined message published again, and where."""

    sequence: Annotated[int, Meta(ge=1, description="Its place in the quarantine, where it stays.")]
    subject: Annotated[str, Meta(description="Where it had come from, and has been published to again.")]
    by: str
    understood: Annotated[bool, Meta(description="Whether it looked as if a consumer could read it now.")]
    delivery: DeliveryId | None = None


class QuarantineReleased(CloudEvent, frozen=True, kw_only=True):
    """A quarantined message was published again, as it had come."""

    data: QuarantineReleasedData
    type: Literal["oneprotect.quarantine.released.v1"] = "oneprotect.quarantine.released.v1"


class ConfigChangedData(Struct, frozen=True, kw_only=True):
    """Audit: who changed what. The changed values are not in it."""

    kind: Literal["destination", "credential", "token"]
    name: str
    action: Literal["set", "delete", "enable", "disable", "create", "test"]
    by: str
    address: Annotated[str, Meta(description="From where: the client's address, as far as it is known.")] | None = None


class ConfigChanged(CloudEvent, frozen=True, kw_only=True):
    """A tenant's configuration was changed."""

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
    """Decode what a producer published. Raises `ValueError` whose text names the field and the rule."""
    return _decode_request(document)


def decode_result(document: bytes) -> DeliveryAttempted:
    """Decode an attempt result. Raises `ValueError`."""
    return _decode_result(document)


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)
