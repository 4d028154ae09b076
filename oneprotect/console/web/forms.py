"""Forms of the console: their origin, their fields, and date and time inputs."""

from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import require_time_range
from oneprotect.api.web.problems import Problem
from schemas.validation import ValidationError

_MAX_FIELDS: Final = 64
_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"


async def read_form(request: ApiRequest) -> dict[str, str]:
    """Return the fields of a form. Raises `Problem`."""
    if (request.header("content-type") or "").partition(";")[0].strip().lower() != _MEDIA_TYPE:
        raise Problem(415, "unsupported-media-type", f"Send forms as `{_MEDIA_TYPE}`.")
    return parse_fields(await request.read_body())


def parse_fields(body: bytes) -> dict[str, str]:
    """Return the fields in the body of a form. Raises `Problem`."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise Problem(400, "bad-request", "The form is malformed. Open the page again and retry.") from None
    return dict(pairs)


def require_same_origin(request: Request) -> None:
    """Raise `Problem` unless the browser states that a page of this console sent the request."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        host = request.headers.get("host", "")
        is_same = bool(host) and request.headers.get("origin", "").partition("://")[2] == host
    else:
        is_same = site == "same-origin"
    if not is_same:
        raise Problem(403, "forbidden", "This form was not sent by a page of this console. Open the page here.")


def parse_time_range(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times of two inputs. Raises `ValidationError`, also unless the first is earlier."""
    times = _parse_time(since, "since"), _parse_time(until, "until")
    require_time_range(*times)
    return times


def _parse_time(text: str | None, field: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None:
        raise ValidationError(field, "expected a date and time in UTC, like 2026-11-23T20:00")
    return time if time.tzinfo else time.replace(tzinfo=UTC)
