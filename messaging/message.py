"""A message of a durable consumer."""

from datetime import UTC, datetime

from messaging.client.connection import NatsConnection
from messaging.client.headers import block_of, read_headers
from messaging.management import NANOSECONDS
from schemas.headers import HEADER_REPLAY

_REPLAY = f"\r\n{HEADER_REPLAY}:".encode()


class Message:
    """A message of a durable consumer, to be settled exactly once.

    `lane`: the tenant and destination, as `lane_of` returns them for the subject.
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
        "stored_ns",
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
        """Encoded headers; empty without any."""
        self.reply = reply
        self._headers: dict[str, str] | None = None
        self._connection = connection
        # $JS.ACK[.domain.account].stream.consumer.deliveries.stream_seq.consumer_seq.nanoseconds.pending[.token]
        tokens = reply.decode().split(".")
        self._tokens = tokens = tokens[2:] if len(tokens) < 11 else tokens[4:]
        self.stream = tokens[0]
        """The stream of the message."""
        self.identity = f"{tokens[0]}.{tokens[3]}"
        """Identifies the message over all its redeliveries."""
        self.deliveries = int(tokens[2])
        """Number of deliveries by the server, this one included."""
        self.stored_ns = int(tokens[5])
        """Unix time in nanoseconds when the server stored the message."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers, decoded on first access."""
        if self._headers is None:
            self._headers = read_headers(self.header_block) if self.header_block else {}
        return self._headers

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._headers, self.header_block = headers, block_of(headers)

    @property
    def is_replayed(self) -> bool:
        """True if a replay requested the message, or an attempt before this retry."""
        return _REPLAY in self.header_block

    @property
    def sequence(self) -> int:
        """The sequence in the stream."""
        return int(self._tokens[3])

    @property
    def stored_at(self) -> datetime:
        """Time when the server stored the message."""
        return datetime.fromtimestamp(self.stored_ns / NANOSECONDS, UTC)

    # If one of these is lost, the server redelivers the message, and the recorded result settles it.

    def ack(self) -> None:
        """Acknowledge the message: its outcome is stored."""
        self._connection.send_reply(self.reply, b"+ACK")

    def nak(self, delay_s: float = 0) -> None:
        """Return the message for redelivery after `delay_s` seconds."""
        delay = b' {"delay": %d}' % int(delay_s * NANOSECONDS) if delay_s else b""
        self._connection.send_reply(self.reply, b"-NAK" + delay)

    def terminate(self, reason: str) -> None:
        """Remove the message although its outcome is not stored. The server announces `reason`."""
        self._connection.send_reply(self.reply, b"+TERM " + reason.encode())

    def in_progress(self) -> None:
        """Restart the server's acknowledgement deadline."""
        self._connection.send_reply(self.reply, b"+WPI")
