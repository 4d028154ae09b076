"""The result of a POST: the receiver's response with its limits, or a code for the lack of one.

A failure has no text: that of a library may quote the request.
"""

import errno
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

from schemas.codes import Code

MAX_RETRY_AFTER_S: Final = 86_400.0
"""Longest pause that a receiver may ask for: one day."""
CAPTURED_BYTES: Final = 3 * 1024
"""More than is shown, so that a secret across the end of the shown part is complete, and masked."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
"""Limit of all heads of one response together, the informational ones (1xx) included."""
MAX_HEAD_LINES: Final = 256
"""Limit of the lines of all those heads: status lines, fields, continued lines, and the empty line of each."""
MAX_FRAMING_BYTES: Final = 4 * 1024
"""Limit of what follows the head and is not body: sizes and extensions of chunks, and trailers."""
MAX_HEADERS: Final = 128
MAX_LINE_BYTES: Final = 8190

_LOCAL_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_SECONDS = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,32})?")


class WebhookResponse(Struct, frozen=True, gc=False):
    """The end of a POST. `http_status` is set whenever the receiver sent one; `response_bytes` counts the body read.

    `body` is the beginning, at most `CAPTURED_BYTES`, and empty unless captured.
    """

    code: Code
    http_status: int | None = None
    retry_after_s: float | None = None
    response_bytes: int = 0
    body: bytes = b""


NOT_BEGUN: Final = WebhookResponse(Code.INTERNAL)
"""The end of a POST of which nothing was sent, because it might not begin any more. It is no result."""


def response_from_head(status: int, retry_after: bytes | None, size: int, body: bytes) -> WebhookResponse:
    """Return the response for a head with `status` and `retry_after`, and a body of `size` bytes."""
    wait_s = None
    if retry_after is not None and status >= 300:
        wait_s = retry_after_s(retry_after.decode("latin-1").strip(), datetime.now(UTC))
    return WebhookResponse(Code.of_http_status(status), status, wait_s, size, body)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Return the seconds of a `Retry-After` header, which may be a date (RFC 9110, section 10.2.3). Garbage is None.

    At least 0 and at most a day.
    """
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


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
