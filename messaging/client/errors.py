"""What can go wrong between us and JetStream.

JetStreamError
├── Unavailable   no answer, no connection, no leader or no room: worth another try
├── NotFound      the stream, consumer or message is not there
├── Refused       the server understood and said no, with its error code
│   └── NotAllowed    this user lacks the permission: no try will help until somebody grants it
└── Unsupported   the server is too old for this program
"""

from typing import Final

SUBJECT_FULL: Final = 10077
"""This subject has its fill of messages (the work stream's bound per destination)."""
BATCH_HAS_DUPLICATE: Final = 10201
"""A message of an atomic batch has the `Nats-Msg-Id` of one that is stored already."""
BATCHES_OFF: Final = 10174
"""The stream takes no atomic batches: an older version of this program has made it."""
WRONG_LAST_SEQUENCE: Final = 10071
"""Somebody else wrote first (optimistic concurrency)."""

MESSAGE_TOO_LARGE: Final = 10054
"""Larger than the stream takes, or than the server does at all."""
TEMPORARY: Final = frozenset({10004, 10008, 10009, 10023, 10047})
"""No leader just now, or no room on the disk or in the account's limits: the same request may be taken later."""


class JetStreamError(Exception):
    """Something went wrong between us and JetStream; the text says what, and how to mend it where that is known."""


class ServerUnavailable(JetStreamError):
    """No answer, no connection, no leader or no room: worth another try."""


class NotFound(JetStreamError):
    """The stream, consumer or message is not there."""


class ServerTooOld(JetStreamError):
    """The server is too old for this program."""


class RejectedByServer(JetStreamError):
    """The server said no. `err_code` is its number for the reason."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.err_code = err_code


class WriteConflict(RejectedByServer):
    """Another writer was first: the expected revision is not the newest one."""


class NotAllowed(RejectedByServer):
    """This user lacks the permission. `err_code` is 0: it is the server that says so, and not JetStream."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)
        self.args = (text,)


def error_of(err_code: int, description: str) -> JetStreamError:
    """What an error code of the server's means to whoever asked. 0: it gave none."""
    if not err_code:
        return ServerUnavailable(description)
    if err_code in TEMPORARY:
        return ServerUnavailable(f"{description} ({err_code})")
    if err_code == WRONG_LAST_SEQUENCE:
        return WriteConflict(err_code, description)
    return RejectedByServer(err_code, description)
