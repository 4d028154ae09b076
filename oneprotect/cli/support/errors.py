"""What goes wrong at the command line, as one line for a person or one JSON object for a program.

Nothing that was typed is repeated, neither a value nor a file's name: secrets are typed at wrong places.
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
    """A command could not do what it was asked to; the text says why and how to mend it."""

    def __init__(self, text: str, *, exit_code: int = FAILED, fields: dict[str, object] | None = None) -> None:
        super().__init__(text)
        self.exit_code: Final = exit_code
        self.fields: Final = fields or {}
        """What a program gets beside the text."""


class BadUsage(CliError):
    """The arguments can't be used."""

    def __init__(self, text: str) -> None:
        super().__init__(text, exit_code=USAGE)


def show(failure: CliError, *, as_json: bool) -> None:
    """Write it to stderr."""
    text = str(failure)
    if as_json:
        import msgspec

        sys.stderr.write(msgspec.json.encode({"error": text, **failure.fields}).decode() + "\n")
        return
    for line in text.splitlines():
        sys.stderr.write(f"error: {line}\n")


def described(error: BaseException) -> CliError:
    """What `error` means to whoever typed the command."""
    error = _alone(error)
    if isinstance(error, CliError):
        return error
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return CliError("interrupted")
    if isinstance(error, typer.TyperException):
        return BadUsage(_usage(error))
    return _known(error) or CliError(
        f"unexpected {type(error).__name__}; run the same with ONEPROTECT_LOG_LEVEL=debug to see where it was raised"
    )


def _alone(error: BaseException) -> BaseException:
    """What a task group raised, when it is one thing."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _alone(group.exceptions[0]) if len(group.exceptions) == 1 else group


def _known(error: BaseException) -> CliError | None:
    from messaging.client.errors import JetStreamError
    from oneprotect.configuration.errors import ConfigurationError
    from oneprotect.dev.nats_server import EmbeddedNatsError
    from oneprotect.settings.settings import SettingsError
    from provider.errors import ProviderMisconfigured
    from schemas.validation import ValidationError

    match error:
        case SettingsError():
            return CliError(str(error), exit_code=USAGE, fields={"problems": error.problems})
        case ProviderMisconfigured() | ValidationError():
            return BadUsage(str(error))
        case JetStreamError() | ConfigurationError() | EmbeddedNatsError():
            return CliError(str(error))
        case _:
            return None


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments, from the parser's own words but for what was typed."""
    command = getattr(getattr(error, "ctx", None), "command_path", "oneprotect")
    match type(error).__name__:
        case "NoSuchOption":
            text = f"no such option{_typed(getattr(error, 'option_name', ''))}"
            text += _suggested(getattr(error, "possibilities", None) or ())
        case "MissingParameter":
            text = error.format_message().rstrip(".")
        case "BadParameter":
            where = error.format_message().removesuffix(error.message)
            text = where + _GIVEN.sub("not ", error.message, count=1).removeprefix("Value error, ").rstrip(".")
        case "NoArgsIsHelpError":
            text = "a command is missing"
        case _:
            text = _other_usage(error.format_message())
    return f"{text[:1].lower()}{text[1:]}{'' if text.endswith('?') else ';'} see `{command} --help`"


def _other_usage(text: str) -> str:
    if found := _NO_COMMAND.fullmatch(text):
        suggested = (found["suggested"] or "").replace("'", "")
        return f"no such command{_typed(found['typed'])}" + (f"; did you mean {suggested}?" if suggested else "")
    if text.startswith("Got unexpected extra argument"):
        return "there is an argument too many; put quotes around one with blanks in it"
    return text.rstrip(".") if text.startswith("Missing command") else "the arguments can't be understood"


def _typed(word: str) -> str:
    """A plain word may be repeated: it is a slip of the finger, and no secret."""
    return f" {word}" if _PLAIN_WORD.fullmatch(word) else ""


def _suggested(options: Iterable[str]) -> str:
    names = ", ".join(sorted(options))
    return f"; did you mean {names}?" if names else ""
