"""Failures of a request as a code and nothing else: the text of a library may quote the request."""

import errno
from typing import Final

from schemas.codes import Code

_LOCAL_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class SendError(Exception):
    """A request without a response. Raise it outside an `except` block, so that no foreign exception is attached."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.value)
        self.code = code


def connect_error_code(error: Exception, *, otherwise: Code) -> Code:
    """Return the code of a failed connection: `otherwise`, except for a time-out or an exhausted local resource."""
    if isinstance(error, TimeoutError):
        return Code.NET_TIMEOUT
    if not isinstance(error, OSError) or error.errno in _LOCAL_ERRNOS:
        return Code.INTERNAL
    return otherwise
