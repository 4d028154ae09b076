"""Quarantined messages: listed, decoded again, and released to the subject that they came from.

The quarantine keeps the bytes of the body, and of the headers the portable ones (`schemas.headers`): a release needs
the retry state, the trace and the content type, and nothing else.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from consumers.model.request import DeliveryAttemptRequest
from messaging import direct_get
from messaging.audit_events import publish_audit_event
from messaging.client.connection import NatsConnection
from messaging.client.headers import block_of
from messaging.delivery_requests import publish_request
from messaging.message import Message
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from messaging.reverse_reader import read_last
from schemas import streams, subjects
from schemas.events import QuarantineReleased, QuarantineReleasedData
from schemas.headers import HEADER_CHECKED, HEADER_CODE, HEADER_MSG_ID, HEADER_ORIGIN, HEADER_REASON, portable_headers

SOURCE: Final = "/oneprotect/quarantine"
_REQUESTS: Final = ("requested", "overflow", "ordered")
"""Kinds of subjects from which a message is released as a request: who reads requests also keeps their order."""


class QuarantinedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A quarantined message. `headers` are the portable ones that it came with."""

    sequence: int
    kept_at: datetime
    tenant: str
    origin: str
    code: str
    reason: str
    data: bytes
    headers: dict[str, str]

    @classmethod
    def from_message(cls, record: direct_get.StoredMessage) -> "QuarantinedMessage":
        """Decode a message of the quarantine stream."""
        tokens = subjects.origin_quarantined(record.subject).split(".")[2:]
        return cls(
            sequence=record.sequence,
            kept_at=record.stored_at,
            tenant=tokens[1] if len(tokens) > 1 else "",
            origin=record.headers.get(HEADER_ORIGIN, ""),
            code=record.headers.get(HEADER_CODE, ""),
            reason=record.headers.get(HEADER_REASON, ""),
            data=record.data,
            headers=portable_headers(record.headers),
        )

    @property
    def kind(self) -> str:
        """The kind of subject that it came from."""
        return subjects.kind_of(self.origin)

    @property
    def is_request(self) -> bool:
        """True if it came from a subject of requests."""
        return self.kind in _REQUESTS or self.kind == "due"


class QuarantineStore:
    """The quarantine stream. No message is ever removed; messages expire by age."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def read_newest(
        self,
        *,
        tenant: str | None = None,
        code: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int,
        before: int | None = None,
    ) -> list[QuarantinedMessage]:
        """Return the newest messages that fulfil every given condition, newest first, before sequence `before`."""

        def match(record: direct_get.StoredMessage) -> QuarantinedMessage | None:
            message = QuarantinedMessage.from_message(record)
            fits = (code is None or message.code == code) and (until is None or message.kept_at < until)
            return message if fits else None

        pattern = subjects.quarantined(subjects.of_tenant(tenant) if tenant else ">")
        return await read_last(
            self._connection, streams.QUARANTINE.name, pattern, match, limit=limit, before=before, since=since
        )

    async def get(self, sequence: int) -> QuarantinedMessage | None:
        """Return the message with this stream sequence, or None."""
        async for record in direct_get.scan(
            self._connection, streams.QUARANTINE.name, subjects.quarantined(">"), first_sequence=sequence, batch=1
        ):
            return QuarantinedMessage.from_message(record) if record.sequence == sequence else None
        return None

    def decode_request(self, found: QuarantinedMessage, *, max_payload_bytes: int) -> DeliveryAttemptRequest:
        """Decode a message as a consumer would now. Raises `ValueError` with the reason when that fails."""
        if not found.is_request:
            raise ValueError("it did not come from a subject of requests")
        reply = f"$JS.ACK.{streams.QUARANTINE.name}.release.1.{found.sequence}.{found.sequence}.0.0".encode()
        message = Message(
            found.origin, subjects.lane_of(found.origin), reply, found.data, block_of(found.headers), self._connection
        )
        return DeliveryAttemptRequest.from_message(message, max_payload_bytes=max_payload_bytes)

    async def release(
        self, found: QuarantinedMessage, *, by: str, delivery: DeliveryAttemptRequest | None
    ) -> PublishAck:
        """Publish a request, or a due retry to the subject that it came from.

        A second release within ten minutes is a duplicate. `delivery` is the result of `decode_request`, if it
        succeeded. Raises `JetStreamError`.
        """
        headers = found.headers | {HEADER_MSG_ID: f"{streams.QUARANTINE.name}.{found.sequence}", HEADER_CHECKED: "1"}
        if found.kind in _REQUESTS:
            tenant, destination = subjects.tenant_and_destination(found.origin)
            stored = await publish_request(self._publisher, tenant, destination, found.data, headers)
        else:
            stored = await self._publisher.publish(Publication(found.origin, found.data, headers))
        now = datetime.now(UTC)
        event = QuarantineReleased(
            specversion="1.0",
            id=f"{found.sequence}.{now.timestamp():.6f}",
            source=SOURCE,
            time=now,
            tenant=found.tenant,
            data=QuarantineReleasedData(
                sequence=found.sequence,
                subject=found.origin,
                by=by,
                understood=delivery is not None,
                delivery=delivery.id if delivery else None,
            ),
        )
        await publish_audit_event(self._publisher, "quarantine.released", str(found.sequence), event)
        return stored
