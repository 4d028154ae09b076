"""Templates and static files of the console. Templates escape every value."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec

from oneprotect.console.web.labels import CODES, CREDENTIALS, STATES

TEMPLATES: Final = Path(__file__).parent.parent / "templates"
STATIC_FILES: Final = Path(__file__).parent.parent / "static"
STATIC_PATH: Final = "/console/static"
STATIC_HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # "no-referrer" would remove the origin from forms
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NOTHING: Final = "\u2013"
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticFile(msgspec.Struct, frozen=True):
    """A file with the name under which it is served."""

    name: str
    content: bytes
    media_type: str


class StaticFiles:
    """Styles, script and icon. Their names contain a hash of the content, so that browsers cache them for good."""

    def __init__(self, directory: Path = STATIC_FILES) -> None:
        paths = [path for path in sorted(directory.iterdir()) if path.suffix in _MEDIA_TYPES]
        self._by_file = {path.name: _load(path) for path in paths}
        self._by_name = {file.name: file for file in self._by_file.values()}

    def url(self, file: str) -> str:
        """Return the path under which a file is served. Raises `KeyError`."""
        return f"{STATIC_PATH}/{self._by_file[file].name}"

    def find(self, name: str) -> StaticFile | None:
        """Return the file that is served under a name."""
        return self._by_name.get(name)


def _load(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return StaticFile(f"{path.stem}.{digest}{path.suffix}", content, _MEDIA_TYPES[path.suffix])


class TemplateRenderer:
    """The templates of all pages."""

    def __init__(self, assets: StaticFiles) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            auto_reload=False,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters = (ago, iso, utc, minute, percent, duration, count, size)
        self._environment.filters |= {function.__name__: function for function in filters}
        common: dict[str, Any] = self._environment.globals  # its type allows only the built-in ones
        common |= {"asset": assets.url, "states": STATES, "credential_labels": CREDENTIALS, "code_hints": CODES}
        common["ui"] = self._environment.get_template("macros.html").module

    def __call__(self, template: str, **values: object) -> bytes:
        """Return the rendered page, or part of a page."""
        return self._environment.get_template(template).render(**values).encode()


def ago(time: datetime | None) -> str:
    """Return the distance to a time in one unit, like `12 s ago` or `in 3 h`."""
    if time is None:
        return "never"
    past = datetime.now(UTC) - time
    seconds = int(abs(past).total_seconds())
    text = next((f"{seconds // size} {unit}" for size, unit in _UNITS if seconds >= size), "")
    if not text:
        return "now"
    return f"{text} ago" if past > timedelta() else f"in {text}"


def iso(time: datetime) -> str:
    """Return the time in ISO 8601."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def minute(time: datetime) -> str:
    """Return the time to the minute."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def utc(time: datetime) -> str:
    """Return the time to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def percent(share: float | None) -> str:
    """Return a share in percent, never rounded to `100 %`."""
    if share is None:
        return NOTHING
    return f"{share * 100:.0f} %" if share in (0, 1) else f"{min(share * 100, 99.9):.1f} %"


def duration(milliseconds: float | None) -> str:
    """Return a duration in milliseconds or seconds."""
    if milliseconds is None:
        return NOTHING
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def count(number: int) -> str:
    """Return a number with separated thousands."""
    return f"{number:,}".replace(",", "\u202f")


def size(number: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number} B"
