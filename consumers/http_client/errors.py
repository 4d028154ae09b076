"""Why there is no reply: a code and nothing else, since what a library says may quote what was being sent."""

import errno
from typing import Final

from schemas.codes import Code

_LOCAL_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class SendError(Exception):
    """There is no answer to be had. Raise it outside an `except` block, so that nothing foreign stays attached."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.value)
        self.code = code


def connect_error_code(error: Exception, *, otherwise: Code) -> Code:
    """Why there is no connection: `otherwise` unless it took too long, or this machine is out of something."""
    if isinstance(error, TimeoutError):
        return Code.NET_TIMEOUT
    if not isinstance(error, OSError) or error.errno in _LOCAL_ERRNOS:
        return Code.INTERNAL
    return otherwise
