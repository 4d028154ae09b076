"""The reference of all settings, `docs/reference/settings.md`, generated from the settings themselves."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, cast

from msgspec import Struct

from oneprotect.settings.parsers import PortRange
from oneprotect.settings.settings import Settings
from oneprotect.settings.variables import VARIABLES

_HEAD: Final = """\
# Settings

Every process reads its settings from environment variables, once, at the start.

- An unknown variable that begins with `ONEPROTECT_`, a missing required variable or an invalid value stops the process.
- The error lists every problem at once, by the variable's name and never by its value.
- Values are not stripped: a space around a value makes the value invalid.
- Secrets (tokens, NATS credentials) come as files, never as variables.
- OpenTelemetry's own `OTEL_*` variables select exporters: see [Monitor](../how-to/monitor.md#export-over-otlp).

This page is generated: `make generate`.
"""


def page() -> str:
    """Return the page, in Markdown."""
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
