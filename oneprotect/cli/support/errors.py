"""Errors of commands, as a line for people or a JSON object for programs.

They repeat no input, neither a value nor a file name, because users sometimes paste a secret into the wrong place.
"""

import re
import sys
from collections.abc import Iterable
from typing import Final, cast

import typer

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_PLAIN_WORD = re.compile(r"-{0,2}[a-z]{1,16}(-[a-z]{1,16}){0,4}")
_NO_COMMAND = re.compile(r"(?s)No such command '(?P<typed>.*?)'\.?(?: Did you mean (?P<suggested>.*)\?)?")
_GIVEN = re.compile(r"(?s)'.*' is not ")


class CliError(Exception):
    """A failed command. The text says what happened, then what to do; `fields` are added to the JSON object."""

    def __init__(self, text: str, *, exit_code: int = FAILED, fields: dict[str, object] | None = None) -> None:
        super().__init__(text)
        self.exit_code: Final = exit_code
        self.fields: Final = fields or {}


class BadUsage(CliError):
    """Invalid arguments."""

    def __init__(self, text: str) -> None:
        super().__init__(text, exit_code=USAGE)


def print_error(error: CliError, *, as_json: bool) -> None:
    """Write an error to stderr."""
    text = str(error)
    if as_json:
        import msgspec

        sys.stderr.write(msgspec.json.encode({"error": text, **error.fields}).decode() + "\n")
        return
    for line in text.splitlines():
        sys.stderr.write(f"error: {line}\n")


def to_cli_error(error: BaseException) -> CliError:
    """Return what any exception means to the user."""
    error = _unwrap(error)
    if isinstance(error, CliError):
        return error
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return CliError("interrupted")
    if isinstance(error, typer.TyperException):
        return BadUsage(_describe_usage(error))
    return _known(error) or CliError(
        f"unexpected {type(error).__name__}; set ONEPROTECT_LOG_LEVEL=debug and run the command again to see its source"
    )


def _unwrap(error: BaseException) -> BaseException:
    """Return the only exception of a task group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _unwrap(group.exceptions[0]) if len(group.exceptions) == 1 else group


def _known(error: BaseException) -> CliError | None:
    from consumers.credentials.control_client import NoConsumerReplied
    from consumers.replay.store import ReplayError
    from messaging.client.errors import JetStreamError
    from messaging.quota import QuotaExceeded
    from oneprotect.configuration.errors import ConfigurationError
    from oneprotect.configuration.tenant_removal import RemovalIncomplete
    from oneprotect.dev.nats_server import EmbeddedNatsError
    from oneprotect.settings.settings import SettingsError
    from provider.errors import ProviderMisconfigured
    from schemas.validation import ValidationError

    match error:
        case SettingsError():
            return CliError(str(error), exit_code=USAGE, fields={"problems": error.problems})
        case ProviderMisconfigured() | ValidationError():
            return BadUsage(str(error))
        case (
            JetStreamError()
            | ConfigurationError()
            | EmbeddedNatsError()
            | NoConsumerReplied()
            | RemovalIncomplete()
            | ReplayError()
        ):
            return CliError(str(error))
        case QuotaExceeded():
            return CliError(str(error))
        case _:
            return None


def _describe_usage(error: typer.TyperException) -> str:
    """Return the parser's message without what the user typed."""
    command = getattr(getattr(error, "ctx", None), "command_path", "oneprotect")
    match type(error).__name__:
        case "NoSuchOption":
            text = f"no such option{_repeat_plain(getattr(error, 'option_name', ''))}"
            text += _suggest(getattr(error, "possibilities", None) or ())
        case "MissingParameter":
            text = error.format_message().rstrip(".")
        case "BadParameter":
            where = error.format_message().removesuffix(error.message)
            text = where + _GIVEN.sub("not ", error.message, count=1).removeprefix("Value error, ").rstrip(".")
        case "NoArgsIsHelpError":
            text = "missing command"
        case _:
            text = _describe_other_usage(error.format_message())
    return f"{text[:1].lower()}{text[1:]}{'' if text.endswith('?') else ';'} see `{command} --help`"


def _describe_other_usage(text: str) -> str:
    if found := _NO_COMMAND.fullmatch(text):
        suggested = (found["suggested"] or "").replace("'", "")
        return f"no such command{_repeat_plain(found['typed'])}" + (f"; did you mean {suggested}?" if suggested else "")
    if text.startswith("Got unexpected extra argument"):
        return "unexpected extra argument; quote arguments that contain spaces"
    return text.rstrip(".") if text.startswith("Missing command") else "invalid arguments"


def _repeat_plain(text: str) -> str:
    """Return what was typed if it is a plain English-like name: a typing error, not a secret."""
    return f" {text}" if _PLAIN_WORD.fullmatch(text) else ""


def _suggest(options: Iterable[str]) -> str:
    names = ", ".join(sorted(options))
    return f"; did you mean {names}?" if names else ""
