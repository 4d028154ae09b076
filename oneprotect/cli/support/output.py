"""What commands print: JSON for programs, tables and lines for people. Results on stdout, remarks on stderr."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, cast

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE: Final = 240
"""Columns where nobody looks: a table in a pipe is not cut."""


def console(*, stderr: bool = False) -> Console:
    """Where people read."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, markup=False, emoji=False)


def write_json(value: object) -> None:
    """One JSON document, on a line of its own."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def write_line(text: str | Text) -> None:
    """One line for people."""
    console().print(text, soft_wrap=True)
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or the sentence `empty` when it has no rows."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    if table.row_count:
        console().print(table)
    else:
        write_line(empty)


def write_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in fields:
        table.add_row(Text(name, "bold"), cell(value))
    console().print(table)


def print_notice(text: str) -> None:
    """A remark on stderr, beside the result."""
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


def cell(value: object) -> Text:
    """A value as people read it. What could steer a terminal is shown as a dot."""
    if isinstance(value, Text):
        return value
    return Text("".join(letter if letter.isprintable() else "·" for letter in _text(value)))


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case float():
            return f"{value:g}"
        case tuple() | list() | set() | frozenset():
            return ", ".join(_text(item) for item in cast("Iterable[object]", value)) or "-"
        case _:
            return str(value)
