"""A delivery request as it came off a stream, checked: the subject, the document and the headers agree."""

from datetime import datetime

import msgspec

from consumers.progress import Progress, time_with_offset
from oneprotect.jetstream.pull import Message
from schemas import subjects
from schemas.events import PING, DeliveryRequested, decode_request


class Delivery(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One payload to one destination, and where it stands."""

    id: str
    tenant: str
    destination: str
    event_type: str
    requested_at: datetime
    """By the producer's clock."""
    content_type: str
    body: bytes
    progress: Progress
    message: Message

    @classmethod
    def read(cls, message: Message, *, max_payload_bytes: int) -> "Delivery":
        """Understand `message`. Raises `ValueError`, whose text names the field and the rule and none of the input."""
        tenant, destination = subjects.tenant_and_destination(message.subject)
        request = _decoded(message.data)
        if request.tenant != tenant:
            raise ValueError("`tenant` is not the tenant of the subject")
        if request.data.destination != destination:
            raise ValueError("`data.destination` is not the destination of the subject")
        body = request.data.body()
        if len(body) > max_payload_bytes:
            raise ValueError(f"the payload has {len(body)} bytes, more than the {max_payload_bytes} that are allowed")
        return cls(
            id=request.id,
            tenant=tenant,
            destination=destination,
            event_type=request.data.event_type,
            requested_at=request.time,
            content_type=request.data.body_content_type,
            body=body,
            progress=Progress.read(message.headers),
            message=message,
        )

    @property
    def is_ping(self) -> bool:
        """Whether it only tries its destination out: then one attempt is all, whatever comes of it."""
        return self.event_type == PING

    @property
    def since(self) -> datetime | None:
        """Since when results may be on record, if that is longer than since its message was stored."""
        since = self.message.headers.get(subjects.HEADER_SINCE)
        return time_with_offset(since, subjects.HEADER_SINCE) if since else None

    @property
    def request_id(self) -> str:
        """The `Nats-Msg-Id` that a producer gives it."""
        return subjects.msg_id(self.tenant, self.destination, self.id)


def _decoded(document: bytes) -> DeliveryRequested:
    try:
        return decode_request(document)
    except msgspec.ValidationError as error:
        reason = _without_values(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = "not a JSON document"
    raise ValueError(reason)


def _without_values(text: str) -> str:
    # "Invalid enum value 'x' - at `$.type`" is the one message that repeats what was sent.
    return "Invalid value" + text[text.rindex("' - at") + 1 :] if text.startswith("Invalid enum value '") else text
