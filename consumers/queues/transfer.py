"""Moves the messages of one subject to another subject, oldest first.

A message is published at its target first and removed from its source afterwards, under one `Nats-Msg-Id`. After a
crash in between, the next holder of the lease finds the message in both places, and the server drops the duplicate.
"""

from collections.abc import Mapping

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.lease import Lease, LeaseLost
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from schemas.headers import HEADER_MSG_ID, portable_headers


class SubjectTransfer:
    """The source subject, and how far its messages have been moved. The caller holds `lease`."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, *, stream: str, source: str
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._lease = lease
        self.stream = stream
        self.source = source
        self._moved = self._removed = 0
        """Sequences in the stream."""

    async def read(self, size: int) -> tuple[list[StoredMessage], bool]:
        """Return the oldest messages, at most `size`, and whether there are more. Raises `JetStreamError`."""
        return await direct_get.read_batch(self._connection, self.stream, self.source, first_sequence=1, size=size)

    async def publish(self, record: StoredMessage, target: str, extra: Mapping[str, str] | None = None) -> bool:
        """Publish `record` on `target`, with `extra` headers. Returns False when that has been done before.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        if record.sequence <= self._moved:
            return False
        if not self._lease.is_held:
            raise LeaseLost
        headers = {**portable_headers(record.headers), HEADER_MSG_ID: self.message_id(record), **(extra or {})}
        await self._publisher.publish(Publication(target, record.data, headers))
        self._moved = record.sequence
        return True

    def skip(self, record: StoredMessage) -> None:
        """Count `record` as moved: the target has it already."""
        self._moved = record.sequence

    async def remove_moved(self) -> None:
        """Remove from the source what has been moved. Raises `JetStreamError`; then it is safe to call again."""
        if self._moved > self._removed:
            await management.purge_subject(self._connection, self.stream, self.source, before=self._moved + 1)
            self._removed = self._moved

    def message_id(self, record: StoredMessage) -> str:
        """Return the `Nats-Msg-Id` of `record`, or one made from its place when it has none."""
        return record.headers.get(HEADER_MSG_ID) or f"{self.stream}.{record.sequence}"
