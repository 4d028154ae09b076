"""Output of commands: results on stdout, as JSON or as tables and lines; notices and prompts on stderr."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH: Final = 240
"""Columns of output without a terminal, so that tables in a pipe are not truncated."""


def open_console(*, stderr: bool = False) -> "Console":
    """Return a console on stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def write_json(value: object) -> None:
    """Write a JSON document on a line of its own."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def write_line(text: "str | Text") -> None:
    """Write a line for people."""
    open_console().print(text, soft_wrap=True)
    sys.stdout.flush()


def write_result(value: object, text: str, *, as_json: bool) -> None:
    """Write `value` as JSON, or `text` for people."""
    if as_json:
        write_json(value)
    else:
        write_line(text)


def write_view(view: msgspec.Struct, *, as_json: bool, **formatted: object) -> None:
    """Write a struct as JSON, or its fields for people, with `formatted` in place of fields."""
    if as_json:
        write_json(view)
    else:
        write_fields((msgspec.structs.asdict(view) | formatted).items())


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write a table, or the sentence `empty` when it has no rows."""
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(format_cell(value) for value in row))
    if table.row_count:
        open_console().print(table)
    else:
        write_line(empty)


def write_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Write names and values, one pair per line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in fields:
        table.add_row(Text(name, "bold"), format_cell(value))
    open_console().print(table)


def print_notice(text: str) -> None:
    """Write a notice to stderr."""
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


def confirm(question: str) -> bool:
    """Ask the user on the terminal. Returns True without a terminal, because nothing can answer there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def format_cell(value: object) -> "Text":
    """Return a value for people. A dot replaces each character that could control the terminal."""
    from rich.text import Text

    if isinstance(value, Text):
        return value
    return Text("".join(letter if letter.isprintable() else "·" for letter in _format(value)))


def _format(value: object) -> str:
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
            return ", ".join(_format(item) for item in cast("Iterable[object]", value)) or "-"
        case _:
            return str(value)
