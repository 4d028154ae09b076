"""Transfers of messages from one subject to another, oldest first.

A message is published at its target first and removed from its source afterwards, under one `Nats-Msg-Id`. After a
crash in between, the next holder of the lease finds the message in both places, and the server drops the duplicate.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from consumers.worker.disposition import quarantine_record
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import SUBJECT_FULL, NotAllowed, RejectedByServer, is_refused_for_good
from messaging.direct_get import StoredMessage
from messaging.lease import Lease, LeaseLost
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from schemas import streams
from schemas.headers import HEADER_MSG_ID, HEADER_SINCE, is_portable, portable_headers


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
        self._ahead: set[int] = set()
        """Sequences that are moved, behind one that is not."""
        self._to_delete: list[int] = []
        """Sequences of the work stream that are moved, and not deleted yet."""

    async def read(self, size: int) -> tuple[list[StoredMessage], bool]:
        """Return the oldest messages, at most `size`, and whether there are more. Raises `JetStreamError`."""
        return await direct_get.read_batch(self._connection, self.stream, self.source, first_sequence=1, size=size)

    async def publish(self, record: StoredMessage, target: str, extra: Mapping[str, str] | None = None) -> bool:
        """Publish `record` on `target`, with `extra` headers. Returns False when that has been done before.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        if self.is_moved(record):
            return False
        await self._publish(record, target, extra or {})
        self.skip(record)
        return True

    async def publish_all(self, records: Sequence[StoredMessage], target: str, *, doubtful: int = 0) -> int:
        """Publish `records` together. Returns how many are moved: those before the first that the server refuses.

        The first `doubtful` may have been moved before: their copies ask for a look at the results before they are
        sent. Raises `JetStreamError`, `LeaseLost` among them, unless the reason is a full subject.
        """
        published = (
            self._publish_once(record, target, since_header(record) if number < doubtful else {})
            for number, record in enumerate(records)
        )
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        for count, (record, error) in enumerate(zip(records, outcomes, strict=True)):
            if error is None:
                self._ahead.discard(record.sequence)
                self.skip(record)
            elif isinstance(error, RejectedByServer) and error.err_code == SUBJECT_FULL:
                return count
            else:
                raise error
        return len(records)

    def note_moved(self, records: Iterable[StoredMessage]) -> None:
        """Count `records` as moved although earlier ones are not."""
        self._ahead.update(record.sequence for record in records)

    async def _publish_once(self, record: StoredMessage, target: str, extra: Mapping[str, str]) -> None:
        if record.sequence not in self._ahead and not self.is_moved(record):
            await self._publish(record, target, extra)
            self._ahead.add(record.sequence)

    async def _publish(self, record: StoredMessage, target: str, extra: Mapping[str, str]) -> None:
        if not self._lease.is_held:
            raise LeaseLost
        headers = {**portable_headers(record.headers), HEADER_MSG_ID: message_id(self.stream, record), **extra}
        try:
            await self._publisher.publish(Publication(target, record.data, headers))
        except RejectedByServer as error:
            if not is_refused_for_good(error):
                raise
            await self._publisher.publish(quarantine_record(record, self.stream, error))

    def is_moved(self, record: StoredMessage) -> bool:
        """Return whether this transfer has moved `record`."""
        return record.sequence <= self._moved

    def start_over(self) -> None:
        """Forget how far messages have been moved: a recreated stream counts from 1 again."""
        self._moved = self._removed = 0

    def skip(self, record: StoredMessage) -> None:
        """Count `record` as moved: the target has it already."""
        self._moved = record.sequence
        if self.stream == streams.WORK.name:
            self._to_delete.append(record.sequence)

    async def remove_moved(self) -> None:
        """Remove from the source what has been moved. Raises `JetStreamError`; then it is safe to call again.

        The work stream has a consumer that all subjects share. A purge of one subject would move the consumer past
        messages of others, which would be lost. So messages are deleted there one by one.
        """
        if self.stream == streams.WORK.name:
            await asyncio.gather(*(self._delete(sequence) for sequence in self._to_delete))
            self._to_delete.clear()
        elif self._moved > self._removed:
            await management.purge_subject(self._connection, self.stream, self.source, before=self._moved + 1)
            self._removed = self._moved
        if self._ahead:
            await asyncio.gather(*(self._delete(sequence) for sequence in self._ahead))
            self._ahead.clear()

    async def _delete(self, sequence: int) -> None:
        try:
            await management.delete_message(self._connection, self.stream, sequence)
        except NotAllowed:
            raise
        except RejectedByServer:
            return  # it is gone


def message_id(stream: str, record: StoredMessage) -> str:
    """Return the `Nats-Msg-Id` of `record`, or one made from its place when it has none that a copy may have."""
    sent = record.headers.get(HEADER_MSG_ID, "")
    return sent if is_portable(sent) else f"{stream}.{record.sequence}"


def since_header(record: StoredMessage) -> dict[str, str]:
    """Return the header that asks for a look at the results since `record`, or what it is a copy of, was stored."""
    return {HEADER_SINCE: record.headers.get(HEADER_SINCE) or record.stored_at.isoformat()}
