"""The reference of the command line, `docs/reference/cli.md`, generated from the commands themselves."""

from collections.abc import Iterator
from typing import Final, Protocol, cast

import typer

from oneprotect.cli.app import app

_HEAD: Final = """\
# Command line

`oneprotect`, also `python -m oneprotect`. Commands that use NATS or Secrets read the
[settings](settings.md) from the environment.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or a check found a problem |
| 2 | the arguments or the settings cannot be used |

- Every command accepts `--json`: the result on stdout, one JSON document or one object a line.
- Errors go to stderr. With `--json` an error is one JSON object with the key `error`.
- Errors never repeat the arguments, because an argument may be a secret typed in the wrong place.
- `--help` prints the text of this page.

This page is generated: `make generate`.
"""


class _Parameter(Protocol):
    """An option or argument, as typer describes it."""

    opts: list[str]
    secondary_opts: list[str]
    metavar: str | None
    help: str | None
    default: object
    required: bool
    hidden: bool
    is_flag: bool
    type_descriptor: object


class _Command(Protocol):
    """A command, as typer describes it."""

    help: str | None
    short_help: str | None
    epilog: str | None
    params: list[_Parameter]


def page() -> str:
    """Return the page, in Markdown."""
    commands = list(_commands("oneprotect", cast("_Command", typer.main.get_command(app))))
    index = ["| command | purpose |", "|---|---|"]
    index += [f"| [`{name}`](#{name.replace(' ', '-')}) | {_summary(command)} |" for name, command in commands]
    sections = [line for name, command in commands for line in _section(name, command)]
    return "\n".join([_HEAD, "## Commands", "", *index, "", *sections])


def _commands(name: str, command: _Command) -> Iterator[tuple[str, _Command]]:
    """Yield a command, or each command of a group."""
    inner: dict[str, _Command] = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for key, one in inner.items():
        yield from _commands(f"{name} {key}", one)


def _summary(command: _Command) -> str:
    return _cell(command.short_help or (command.help or "").split("\n\n")[0])


def _section(name: str, command: _Command) -> Iterator[str]:
    arguments = " ".join(_metavar(one) for one in command.params if not one.opts[0].startswith("-"))
    yield f"## {name}\n"
    yield f"`{' '.join(filter(None, (name, '[OPTIONS]', arguments)))}`\n"
    yield "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n")) + "\n"
    if rows := [_row(one) for one in command.params if not one.hidden and "--json" not in one.opts]:
        yield from ("| option | default | description |", "|---|---|---|", *rows, "")
    if command.epilog:
        yield "```sh"
        yield from (line.removeprefix("  ") for line in command.epilog.splitlines()[2:])
        yield "```\n"


def _row(parameter: _Parameter) -> str:
    is_option = parameter.opts[0].startswith("-")
    names = ", ".join((*parameter.opts, *parameter.secondary_opts)) if is_option else _metavar(parameter)
    value = f" {_metavar(parameter)}" if is_option and not parameter.is_flag else ""
    return f"| `{_cell(names + value)}` | {_default(parameter)} | {_cell(parameter.help or '')}{_range(parameter)} |"


def _metavar(parameter: _Parameter) -> str:
    if parameter.metavar:
        return str(parameter.metavar).strip("{}")
    if choices := getattr(parameter, "choices", None):
        return "|".join(str(getattr(choice, "value", choice)) for choice in choices)
    annotation = getattr(parameter.type_descriptor, "annotation", str)
    return "N" if annotation in (int, float) else str(getattr(annotation, "__name__", "value")).upper()


def _default(parameter: _Parameter) -> str:
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    return "" if default in (None, False, "", (), []) or callable(default) else f"`{_cell(str(default))}`"


def _range(parameter: _Parameter) -> str:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is None and high is None:
        return ""
    if high is None:
        return f" At least {low:g}."
    return f" {low:g} to {high:,}." if low is not None else f" At most {high:,}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
