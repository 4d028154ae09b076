"""The reference of all settings, `docs/settings.md`, made from the settings themselves.

`python -m tools.settings_reference > docs/settings.md` refreshes it; a test fails when it is stale.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, cast

from msgspec import Struct

from oneprotect.settings.settings import VARIABLES, PortRange, Settings

_HEAD: Final = """\
# Settings

Environment variables, read once at the start. An unknown variable that begins with `ONEPROTECT_`, a missing required
one or a bad value stops the process, with all problems at once, by name and never by value. Nothing is stripped: a
blank around a value makes it a bad one. Secrets (tokens, NATS credentials) come as files, never as variables.

Whether traces and metrics are exported, and where to, OpenTelemetry's own `OTEL_*` variables say: see
[operations.md](operations.md).

This page is generated: `python -m tools.settings_reference > docs/settings.md`.
"""


def reference() -> str:
    """The page, in Markdown."""
    defaults = Settings()
    groups = [(name, cast("Struct", getattr(defaults, name))) for name in defaults.__struct_fields__]
    return "\n".join(line for name, group in groups for line in _section(name, group)).join([_HEAD + "\n", "\n"])


def _section(name: str, group: Struct) -> Iterator[str]:
    reasons = _field_docs(type(group))
    yield f"## {name}\n\n{_one_line(type(group).__doc__ or '')}\n"
    yield "| variable | default | takes | why |\n|---|---|---|---|"
    for variable in VARIABLES:
        if variable.group == name:
            default = _written(getattr(group, variable.field))
            yield f"| `{variable.name}` | {default} | {variable.rule.says} | {reasons[variable.field]} |"
    yield ""


def _field_docs(group: type[Struct]) -> dict[str, str]:
    """The text under each field; Python keeps it nowhere but in the source."""
    definition = cast("ast.ClassDef", ast.parse(inspect.getsource(group)).body[0])
    docs: dict[str, str] = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                docs[name] = _one_line(words)
            case _:
                pass
    return docs


def _one_line(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def _written(default: object) -> str:
    """A default as the variable would hold it."""
    parts = cast("tuple[object, ...]", default) if isinstance(default, tuple) else (default,)
    return f"`{','.join(map(_part, parts))}`" if default not in (None, ()) else "none"


def _part(part: object) -> str:
    if isinstance(part, bool):
        return str(part).lower()
    if isinstance(part, float):
        return f"{part:g}"
    if isinstance(part, tuple):
        low, high = cast("PortRange", part)
        return f"{low}" if low == high else f"{low}-{high}"
    return str(part)


if __name__ == "__main__":
    sys.stdout.write(reference())
