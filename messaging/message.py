"""A message of a durable consumer."""

from datetime import UTC, datetime

from messaging.client.connection import NatsConnection
from messaging.client.headers import block_of, read_headers
from messaging.client.term import UNLIMITED, Term, TermExpired, clock
from messaging.management import NANOSECONDS


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
        "lease",
        "reply",
        "stored_ns",
        "stream",
        "subject",
        "term",
    )

    def __init__(
        self,
        subject: str,
        lane: str,
        reply: bytes,
        data: bytes,
        header_block: bytes,
        connection: NatsConnection,
        term: Term = UNLIMITED,
    ) -> None:
        self.subject = subject
        self.lane = lane
        self.data = data
        self.header_block = header_block
        """Encoded headers; empty without any."""
        self.reply = reply
        self._headers: dict[str, str] | None = None
        self._connection = connection
        self.term = term
        """Until when the server gives the message to no other process."""
        self.lease = UNLIMITED
        """The term of the lease under which the head of an ordered queue is handled."""
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
    def sequence(self) -> int:
        """The sequence in the stream."""
        return int(self._tokens[3])

    @property
    def stored_at(self) -> datetime:
        """Time when the server stored the message."""
        return datetime.fromtimestamp(self.stored_ns / NANOSECONDS, UTC)

    def is_held(self) -> bool:
        """Return whether the message is certainly this process's own."""
        now = clock()
        return now < self.term.until and now < self.lease.until

    def require_term(self) -> None:
        """Raise `TermExpired` unless the message is held. Call it before an effect that follows a wait."""
        if not self.is_held():
            raise TermExpired

    # If one of these is lost, the server redelivers the message, and the recorded result settles it.

    def ack(self) -> None:
        """Acknowledge the message: its outcome is stored.

        After its term nothing is sent: what another process stores of the message may still have to follow.
        """
        if self.is_held():
            self._connection.send_reply(self.reply, b"+ACK")

    def nak(self, delay_s: float = 0) -> None:
        """Return the message for redelivery after `delay_s` seconds.

        After its term nothing is sent: the server would deliver it again while another process handles it.
        """
        if clock() < self.term.until:
            delay = b' {"delay": %d}' % int(delay_s * NANOSECONDS) if delay_s else b""
            self._connection.send_reply(self.reply, b"-NAK" + delay)

    def terminate(self, reason: str) -> None:
        """Remove the message although its outcome is not stored. The server announces `reason`."""
        if self.is_held():
            self._connection.send_reply(self.reply, b"+TERM " + reason.encode())

    def in_progress(self) -> None:
        """Restart the server's acknowledgement deadline, which extends no term: see `ProgressMarks`."""
        self._connection.send_reply(self.reply, b"+WPI")
