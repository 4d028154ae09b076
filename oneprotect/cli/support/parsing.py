"""Parsing of files, times and headers from the command line. Errors repeat neither a value nor a file name."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from oneprotect.cli.support.errors import BadUsage

STDIN: Final = "-"

_AGE = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TIME: Final = Annotated[datetime, Meta(tz=True)]


def read_file(source: str, option: str, *, limit: int, setting: str | None = None) -> bytes:
    """Read a file, or stdin for `-`.

    Args:
        limit: Maximum size in bytes.
        setting: Variable that sets the limit, for the error.

    Raises:
        BadUsage: The file is unreadable or too large.
    """
    try:
        if source == STDIN:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        problem = _describe(error)
    else:
        if len(content) <= limit:
            return content
        problem = f"larger than {limit} bytes" + (f" ({setting})" if setting else "")
    raise BadUsage(f"{option}: {problem}")


def parse_time(text: str | None, option: str) -> datetime | None:
    """Parse an RFC 3339 time, or an age like `2h`, to whole seconds. Raises `BadUsage`."""
    if text is None:
        return None
    if found := _AGE.fullmatch(text):
        return datetime.now(UTC).replace(microsecond=0) - timedelta(**{_UNITS[found["unit"]]: int(found["count"])})
    try:
        time: datetime = msgspec.convert(text, _TIME)
        return time.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        pass
    raise BadUsage(f"{option}: expected a time like 2026-11-23T20:00:00Z, or an age like 90s, 15m, 2h, 3d, 1w")


def parse_headers(lines: list[str], option: str) -> list[tuple[str, str]]:
    """Parse headers of the form `name: value`. Raises `BadUsage`."""
    pairs = [line.partition(":") for line in lines]
    if not all(name.strip() and colon for name, colon, _ in pairs):
        raise BadUsage(f"{option}: expected 'name: value'")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _describe(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "the file does not exist"
        case IsADirectoryError():
            return "expected a file, not a directory"
        case PermissionError():
            return "this user may not read the file"
        case _:
            return f"the file is unreadable ({type(error).__name__})"
