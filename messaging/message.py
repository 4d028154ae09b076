"""A message of a durable consumer."""

from datetime import UTC, datetime

from messaging.client.connection import NatsConnection
from messaging.client.headers import block_of, read_headers
from messaging.management import NANOSECONDS


class Message:
    """A message of a durable consumer, to be settled exactly once.

    `lane`: what it has in common with others, as `lane_of` says of its subject.
    """

    __slots__ = (
        "_connection",
        "_headers",
        "_tokens",
        "data",
        "deliveries",
        "header_block",
        "identity",
        "lane",
        "reply",
        "stream",
        "subject",
    )

    def __init__(
        self, subject: str, lane: str, reply: bytes, data: bytes, header_block: bytes, connection: NatsConnection
    ) -> None:
        self.subject = subject
        self.lane = lane
        self.data = data
        self.header_block = header_block
        """Its headers as they came; empty without any."""
        self.reply = reply
        self._headers: dict[str, str] | None = None
        self._connection = connection
        # $JS.ACK[.domain.account].stream.consumer.deliveries.stream_seq.consumer_seq.nanoseconds.pending[.token]
        tokens = reply.decode().split(".")
        self._tokens = tokens = tokens[2:] if len(tokens) < 11 else tokens[4:]
        self.stream = tokens[0]
        """The stream that holds it."""
        self.identity = f"{tokens[0]}.{tokens[3]}"
        """Names it uniquely, however often it is handed out."""
        self.deliveries = int(tokens[2])
        """How often the server has handed it out, this time included."""

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, taken apart when they are first looked at."""
        if self._headers is None:
            self._headers = read_headers(self.header_block) if self.header_block else {}
        return self._headers

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._headers, self.header_block = headers, block_of(headers)

    @property
    def sequence(self) -> int:
        """Its place in the stream."""
        return int(self._tokens[3])

    @property
    def stored_ns(self) -> int:
        """When the server stored it, in unix nanoseconds."""
        return int(self._tokens[5])

    @property
    def stored_at(self) -> datetime:
        """When the server stored it."""
        return datetime.fromtimestamp(self.stored_ns / NANOSECONDS, UTC)

    # Should one of these get lost, the server hands the message out again and the recorded result settles it.

    def ack(self) -> None:
        """Its outcome is stored: the server may let go of it."""
        self._connection.answer(self.reply, b"+ACK")

    def nak(self, delay_s: float = 0) -> None:
        """Hand it back, to be handed out again after `delay_s`."""
        delay = b' {"delay": %d}' % int(delay_s * NANOSECONDS) if delay_s else b""
        self._connection.answer(self.reply, b"-NAK" + delay)

    def in_progress(self) -> None:
        """Still being worked on: the server's patience starts afresh."""
        self._connection.answer(self.reply, b"+WPI")
