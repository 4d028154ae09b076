"""Errors of NATS and JetStream.

JetStreamError
├── ServerUnavailable     no reply, connection, leader or space: retry
├── NotFound              the stream, consumer or message does not exist
│   └── NoSuchMessage     no message has this sequence or subject
├── RejectedByServer      the server rejected the request, with an error code
│   ├── WriteConflict     another writer was first
│   ├── NotAllowed        this user lacks the permission
│   └── Unsendable        no server accepts this message
└── ServerTooOld          the server is too old for this program
"""

from typing import Final

SUBJECT_FULL: Final = 10077
"""The subject is at its limit of messages (the work stream's limit per destination)."""
BATCH_HAS_DUPLICATE: Final = 10201
"""A message of an atomic batch has the `Nats-Msg-Id` of a stored message."""
BATCHES_OFF: Final = 10174
"""The stream does not allow atomic batches: an older version of this program created it."""
WRONG_LAST_SEQUENCE: Final = 10071
"""The subject's newest message has another sequence than the expected one."""
SEQUENCE_IN_FLIGHT: Final = 10164
"""As above: a message of the subject is on its way to the replicas."""
ROLLUP_REFUSED: Final = 10111
"""The stream does not allow a rollup, or no rollup of this kind exists."""
MESSAGE_TOO_LARGE: Final = 10054
"""The message is larger than the stream or the server allows."""
NO_MESSAGE: Final = 10037
"""The stream has no message with this sequence or subject."""
GONE: Final = frozenset({10043, 10057})
"""The message that was to be deleted does not exist, or is being deleted."""
NO_SPACE: Final = 10047
"""The stream does not fit into what the servers or the account may store."""
TEMPORARY: Final = frozenset({10002, 10004, 10008, 10009, 10023, NO_SPACE})
"""No leader at the moment, or no space on the disk or in the account's limits: the request may succeed later."""
_FOR_GOOD: Final = frozenset(
    {
        MESSAGE_TOO_LARGE,
        10060,  # Nats-Expected-Stream names another stream
        10070,  # Nats-Expected-Last-Msg-Id is another id
        10097,  # more than 64 KiB of headers
        ROLLUP_REFUSED,
        10165,  # an invalid Nats-TTL
        *range(10189, 10193),  # an invalid schedule, or an invalid target, TTL or rollup of one
    }
)
"""Rejections that depend on the message alone. Every other one may end when an operator repairs something."""


class JetStreamError(Exception):
    """A failed request to NATS or JetStream. The text says what happened and, where known, what to do."""


class ServerUnavailable(JetStreamError):
    """No reply, connection, leader or space: retry."""


class NotFound(JetStreamError):
    """A stream, consumer or message that does not exist."""


class NoSuchMessage(NotFound):
    """A message that does not exist, in a stream that does."""


class ServerTooOld(JetStreamError):
    """A server that is too old for this program."""


class RejectedByServer(JetStreamError):
    """A request that the server rejected. `err_code` is the server's code for the reason."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.err_code = err_code
        self.description = description


class WriteConflict(RejectedByServer):
    """A write that another writer preceded: the expected revision is not the newest one."""

    @property
    def newest(self) -> int:
        """The newest revision, as the leader names it; 0 if it does not."""
        _, _, number = str(self).rpartition(" (")[0].rpartition(": ")
        return int(number) if number.isdecimal() else 0


class NotAllowed(RejectedByServer):
    """A request that this user lacks the permission for. `err_code` is 0: JetStream gave none."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)
        self.args = (text,)


class Unsendable(RejectedByServer):
    """A message that no server accepts: its subject or a header is malformed, or too long. `err_code` is 0."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)
        self.args = (text,)


def is_refused_for_good(error: JetStreamError) -> bool:
    """Return whether the same message would be refused each time, so that a retry is no use."""
    return isinstance(error, Unsendable) or (isinstance(error, RejectedByServer) and error.err_code in _FOR_GOOD)


def error_of(err_code: int, description: str) -> JetStreamError:
    """Return the exception for an error code of JetStream; 0 is the absence of a code."""
    if not err_code:
        return ServerUnavailable(description)
    if err_code in TEMPORARY:
        return ServerUnavailable(f"{description} ({err_code})")
    if err_code in (WRONG_LAST_SEQUENCE, SEQUENCE_IN_FLIGHT):
        return WriteConflict(err_code, description)
    return RejectedByServer(err_code, description)
