"""Exceptions as tools print them, with locals and attached exceptions."""

import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final, cast

from rich.traceback import Traceback
from structlog.tracebacks import ExceptionDictTransformer

_MUCH = 1_000_000
LOCALS: Final = frozenset(
    {
        "traceback with locals",
        "rich traceback with locals",
        "structlog traceback with locals",
        "locals of all frames",
    }
)
"""The ways that show locals."""


def shown(error: BaseException) -> Iterator[tuple[str, str]]:
    """What each way of showing `error` shows: the way's name, and the text.

    The locals of all frames are what `pytest --showlocals` and error trackers show, uncut.
    """
    yield "traceback", "".join(traceback.format_exception(error))
    yield (
        "traceback with locals",
        "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()),
    )
    yield "rich traceback with locals", _rich(error)
    yield "structlog traceback with locals", repr(_structlog(error))
    yield "locals of all frames", "\n".join(_locals(one) for one in attached(error))
    yield "attributes of the exception", "\n".join(_attributes(one) for one in attached(error))


def attached(error: BaseException) -> list[BaseException]:
    """Return the exception with all its causes, contexts and group members."""
    found: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += cast("BaseExceptionGroup[BaseException]", one).exceptions
    return list(found.values())


def frames(error: BaseException) -> Iterable[FrameType]:
    """The frames that its traceback keeps alive, the outermost first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _rich(error: BaseException) -> str:
    """Return the output of `rich` without colours, which are slow."""
    trace = Traceback.extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_length=_MUCH,
        locals_max_string=_MUCH,
        locals_hide_dunder=False,
        locals_hide_sunder=False,
    )
    lines = [f"{stack.exc_type} {stack.exc_value} {stack.notes}" for stack in trace.stacks]
    shown = [frame.locals or {} for stack in trace.stacks for frame in stack.frames]
    return "\n".join(lines + [f"{name} = {node}" for locals_ in shown for name, node in locals_.items()])


def _structlog(error: BaseException) -> list[dict[str, Any]]:
    transform = ExceptionDictTransformer(show_locals=True, locals_max_length=_MUCH, locals_max_string=_MUCH)
    return transform((type(error), error, error.__traceback__))


def _locals(error: BaseException) -> str:
    return "\n".join(f"{name} = {value!r}" for frame in frames(error) for name, value in frame.f_locals.items())


def _attributes(error: BaseException) -> str:
    names = [name for name in dir(error) if name != "__traceback__"]
    return f"{error!r} {error!s} {error.args!r}\n" + "\n".join(
        f"{name} = {getattr(error, name, None)!r}" for name in names
    )
