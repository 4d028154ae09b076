"""Settings reference, generated from the settings: `python -m tools.settings_reference > docs/settings.md`.

A test fails when the page is stale.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, cast

from msgspec import Struct

from oneprotect.settings.parsers import PortRange
from oneprotect.settings.settings import Settings
from oneprotect.settings.variables import VARIABLES

_HEAD: Final = """\
# Settings

Every process reads its settings from environment variables, once at start. A process does not start with an unknown
`ONEPROTECT_*` variable, a missing required variable or an invalid value. It reports all problems at once, by variable
name and never by value. Values are not trimmed: a space around a value makes it invalid. Secrets (tokens, NATS
credentials) are files, never variables.

The standard OpenTelemetry variables `OTEL_*` control the export of traces and metrics: see
[operations.md](operations.md).

This page is generated: `python -m tools.settings_reference > docs/settings.md`.
"""


def reference() -> str:
    """Return the page in Markdown."""
    defaults = Settings()
    groups = [(name, cast("Struct", getattr(defaults, name))) for name in defaults.__struct_fields__]
    return "\n".join(line for name, group in groups for line in _section(name, group)).join([_HEAD + "\n", "\n"])


def _section(name: str, group: Struct) -> Iterator[str]:
    effects = _field_docs(type(group))
    yield f"## {name}\n\n{_one_line(type(group).__doc__ or '')}\n"
    yield "| variable | default | value | effect |\n|---|---|---|---|"
    for variable in VARIABLES:
        if variable.group == name:
            default = _format_default(getattr(group, variable.field))
            yield f"| `{variable.name}` | {default} | {variable.rule.expectation} | {effects[variable.field]} |"
    yield ""


def _field_docs(group: type[Struct]) -> dict[str, str]:
    """Return the text under each field. It exists only in the source."""
    definition = cast("ast.ClassDef", ast.parse(inspect.getsource(group)).body[0])
    docs: dict[str, str] = {}
    for field, doc in pairwise(definition.body):
        match field, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = _one_line(text)
            case _:
                pass
    return docs


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _format_default(default: object) -> str:
    """Return a default as it would be set in the variable."""
    items = cast("tuple[object, ...]", default) if isinstance(default, tuple) else (default,)
    return f"`{','.join(map(_format_item, items))}`" if default not in (None, ()) else "none"


def _format_item(item: object) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, float):
        return f"{item:g}"
    if isinstance(item, tuple):
        low, high = cast("PortRange", item)
        return f"{low}" if low == high else f"{low}-{high}"
    return str(item)


if __name__ == "__main__":
    sys.stdout.write(reference())
