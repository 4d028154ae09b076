"""What a receiver's answer, or the lack of one, comes to for a delivery."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

from schemas.codes import Code

MAX_RETRY_AFTER_S: Final = 86_400.0

_SECONDS = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,32})?")


class WebhookResponse(Struct, frozen=True, gc=False):
    """How a POST ended. `http_status` is there whenever the receiver sent one; `response_bytes` counts the body read.

    `body` is its beginning, at most `http1.CAPTURED_BYTES`, and empty unless asked for.
    """

    code: Code
    http_status: int | None = None
    retry_after_s: float | None = None
    response_bytes: int = 0
    body: bytes = b""


def response_from_head(status: int, retry_after: bytes | None, size: int, body: bytes) -> WebhookResponse:
    """The reply that an answer is: its status, its `Retry-After`, its body's size and what is kept of that."""
    wait_s = None
    if retry_after is not None and status >= 300:
        wait_s = retry_after_s(retry_after.decode("latin-1").strip(), datetime.now(UTC))
    return WebhookResponse(Code.of_http_status(status), status, wait_s, size, body)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Read a `Retry-After` header: seconds, or an HTTP date (RFC 9110, section 10.2.3). Garbage is None.

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
