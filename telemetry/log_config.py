"""Structured logs on stderr, one record a line, for structlog and for the standard library's logging.

An exception is logged as its type and stack, without locals and without text, because texts repeat their input: a
`KeyError` its key, an HTTP client its headers. Exceptions of other libraries are logged as their type only, and records
of other libraries as their first line.
"""

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO, cast

import msgspec
import structlog

from telemetry.redaction import Plain, plain

Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["json", "console"]

CHATTY: Final = frozenset({"aiohttp", "asyncio", "client", "kubernetes_asyncio", "nats", "urllib3"})
"""Loggers, with their children, that print bodies, headers or arguments below WARNING.
`client` is the logger of kubernetes_asyncio's configuration."""

_MAX_FRAMES: Final = 20
_MAX_CHAIN: Final = 5
_UNSCRUBBED: Final = frozenset({"delivery"})
"""Fields that are not masked: the grammar of a delivery id is checked on input, and operators search for it."""
_NOT_WORDS: Final = re.compile(r"[^A-Za-z ]")

_Record = MutableMapping[str, Any]


def configure_logging(*, level: Level, format: Format, stream: TextIO | None = None) -> None:  # noqa: A002 - the name of the setting
    """Send every log record of this process to `stream` (default: stderr), as JSON lines or for a console."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    finish = _finisher(_to_json if format == "json" else _console(colours=out.isatty()))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            lambda _logger, _method, record: finish(record, _describe),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _LogOutput(out, *names),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_LibraryLogHandler(_LogOutput(out), finish)], level=number, force=True)
    logging.captureWarnings(capture=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


class _LogOutput:
    """A stream for structlog, and the logger's name."""

    __slots__ = ("_stream", "name")

    def __init__(self, stream: TextIO, name: str | None = None) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    debug = info = warning = error = critical = exception = msg


class _LibraryLogHandler(logging.Handler):
    """A handler for records of the standard library's logging."""

    def __init__(self, output: _LogOutput, finish: "_Finish") -> None:
        super().__init__()
        self._output = output
        self._finish = finish

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep chatty loggers at WARNING, whatever their level is."""
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in CHATTY

    def emit(self, record: logging.LogRecord) -> None:
        fields: _Record = {
            "event": _message(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "exc_info": record.exc_info,
        }
        self._output.msg(self._finish(fields, _describe_by_type))


_Describe = Callable[[BaseException], dict[str, Any]]
_Finish = Callable[[_Record, _Describe], str]


def _finisher(render: Callable[[_Record], str]) -> _Finish:
    """Return the last processor of all records: time, exception, masking, text."""

    def finish(record: _Record, describe: _Describe) -> str:
        error = _exception_of(record.pop("exc_info", None))
        if error is not None:
            record["exception"] = describe(error)
        fields = {key: _shown(key, value) for key, value in record.items()}
        head = {"timestamp": _now(), "level": fields.pop("level", None), "event": fields.pop("event", None)}
        return render({**head, **fields})

    return finish


def _shown(key: str, value: object) -> Plain:
    return value if key in _UNSCRUBBED and isinstance(value, str) else plain(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_json(record: Mapping[str, Any]) -> str:
    return msgspec.json.encode(record).decode()


def _console(*, colours: bool) -> Callable[[_Record], str]:
    # The exception is text here, so the renderer prints it below the line and never calls the formatter.
    renderer = structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback, force_colors=colours
    )

    def render(record: _Record) -> str:
        exception = record.pop("exception", None)
        if exception is not None:
            record["exception"] = "\n".join([exception["type"], *exception.get("stack", [])])
        return renderer(None, "", record)

    return render


def _add_logger_name(logger: _LogOutput, _method: str, record: _Record) -> _Record:
    if logger.name:
        record["logger"] = logger.name
    return record


def _message(record: logging.LogRecord) -> str:
    """Return the first line of a library's record; of asyncio's records only the words before the objects."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - formatting calls foreign code; by default logging prints all arguments
        return "a log record could not be formatted"
    if record.name == "asyncio":
        return _NOT_WORDS.split(text, maxsplit=1)[0].strip()
    return text.partition("\n")[0]


def _exception_of(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exception()
    if isinstance(exc_info, tuple):
        exc_info = cast("tuple[object, ...]", exc_info)[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _describe(error: BaseException) -> dict[str, Any]:
    """Return type, stack (innermost last), types of the causes, and the members of a group."""
    described: dict[str, Any] = {"type": _type_of(error), "stack": _stack(error.__traceback__)}
    causes = _causes(error)
    if causes:
        described["causes"] = causes
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        described["group"] = [_describe(member) for member in group.exceptions[:_MAX_CHAIN]]
    return described


def _describe_by_type(error: BaseException) -> dict[str, Any]:
    return {"type": _type_of(error)}


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _stack(trace: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-_MAX_FRAMES:]


def _causes(error: BaseException) -> list[str]:
    causes: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause and len(causes) < _MAX_CHAIN:
        causes.append(_type_of(cause))
        cause = cause.__cause__ or cause.__context__
    return causes
