"""Files and times from the command line. Neither a value nor a file's name is ever repeated."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from oneprotect.cli.support.errors import BadUsage

STDIN: Final = "-"

_AGO = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TIME: Final = Annotated[datetime, Meta(tz=True)]


def read_file(source: str, option: str, *, limit: int) -> bytes:
    """At most `limit` bytes of a file, or of stdin for `-`. Raises `BadUsage`, also for more."""
    try:
        if source == STDIN:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        problem = _problem(error)
    else:
        problem = f"it has more than {limit} bytes" if len(content) > limit else ""
        if not problem:
            return content
    raise BadUsage(f"{option}: {problem}")


def read_time(text: str | None, option: str) -> datetime | None:
    """An RFC 3339 time, or one as long ago as `2h` says, in whole seconds. Raises `BadUsage`."""
    if text is None:
        return None
    if found := _AGO.fullmatch(text):
        return datetime.now(UTC).replace(microsecond=0) - timedelta(**{_UNITS[found["unit"]]: int(found["count"])})
    try:
        time: datetime = msgspec.convert(text, _TIME)
        return time.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        pass
    raise BadUsage(f"{option}: expected a time like 2026-11-23T20:00:00Z, or one ago like 90s, 15m, 2h, 3d, 1w")


def read_headers(lines: list[str], option: str) -> list[tuple[str, str]]:
    """Headers written as `name: value`. Raises `BadUsage`."""
    pairs = [line.partition(":") for line in lines]
    if not all(name.strip() and colon for name, colon, _ in pairs):
        raise BadUsage(f"{option}: expected 'name: value'")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _problem(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "there is no such file"
        case IsADirectoryError():
            return "it is a directory, and should be a file"
        case PermissionError():
            return "this user may not read it"
        case _:
            return f"it can't be read ({type(error).__name__})"
