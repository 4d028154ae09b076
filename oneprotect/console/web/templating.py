"""Pages from templates. Everything that is put into one is escaped."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jinja2

from oneprotect.console.web.labels import CODES, CREDENTIALS, STATES
from oneprotect.console.web.static_files import StaticFiles

DIRECTORY: Final = Path(__file__).parent.parent / "templates"
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # with none at all, browsers would not say where a form came from
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NOTHING: Final = "\u2013"
_STEPS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class TemplateRenderer:
    """Renders a template with values."""

    def __init__(self, assets: StaticFiles) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(DIRECTORY),
            autoescape=True,
            auto_reload=False,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "ago": ago,
            "iso": iso,
            "utc": utc,
            "minute": minute,
            "percent": percent,
            "duration": duration,
            "count": count,
            "size": size,
        }
        common: dict[str, Any] = self._environment.globals  # typed as if there were only Jinja's own
        common["asset"] = assets.url
        common["states"] = STATES
        common["credential_words"] = CREDENTIALS
        common["code_words"] = CODES
        common["ui"] = self._environment.get_template("macros.html").module

    def __call__(self, template: str, **values: object) -> bytes:
        """The page, or a part of one."""
        return self._environment.get_template(template).render(**values).encode()


def ago(time: datetime | None) -> str:
    """How long ago, or how far ahead, in one unit: `12 s ago`, `in 3 h`."""
    if time is None:
        return "never"
    past = datetime.now(UTC) - time
    seconds = int(abs(past).total_seconds())
    text = next((f"{seconds // size} {unit}" for size, unit in _STEPS if seconds >= size), "")
    if not text:
        return "now"
    return f"{text} ago" if past > timedelta() else f"in {text}"


def iso(time: datetime) -> str:
    """For programs."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def minute(time: datetime) -> str:
    """For people, to the minute."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def utc(time: datetime) -> str:
    """For people, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def percent(share: float | None) -> str:
    """A share; never `100 %` for less."""
    if share is None:
        return NOTHING
    return f"{share * 100:.0f} %" if share in (0, 1) else f"{min(share * 100, 99.9):.1f} %"


def duration(milliseconds: float | None) -> str:
    """Milliseconds in a unit that suits them."""
    if milliseconds is None:
        return NOTHING
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def size(number: int) -> str:
    """Bytes."""
    return f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number} B"
