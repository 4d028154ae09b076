"""Sinks inside a Python process: logging, output, warnings, and unhandled errors."""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any, Final, NoReturn

import pytest
import structlog

from telemetry.log_config import CHATTY
from tests.leak.support.sinks import Sinks

LOGGERS: Final = ("root", *sorted(CHATTY))

OTHERS: Final = "others"
"""The name of a thread that is not listened to: what the tests' doubles say there is not the product's word."""

_STRUCTLOG = "structlog"
_UNRAISABLE = "unraisable exceptions"
_THREADS = "threads' exceptions"
_LOOP = "the event loop's exception handler"
_WARNINGS = "warnings"


class Listener:
    """Captures the output of this process. `prove_alive` writes a harmless marker to every sink."""

    def __init__(self, sinks: Sinks, capture: pytest.CaptureFixture[str]) -> None:
        self.sinks = sinks
        self._capture = capture

    async def prove_alive(self, marker: str) -> list[str]:
        """Write `marker` to every sink, and return the sinks that did not receive it."""
        for name in LOGGERS:
            # A child that is made now, as the loggers that the provider has silenced stay silent.
            child = logging.getLogger(None if name == "root" else f"{name}.{os.urandom(4).hex()}")
            child.setLevel(logging.DEBUG)
            child.debug("say %s", marker)
        structlog.get_logger(marker).debug(marker)
        warnings.warn(marker, stacklevel=1)
        print(marker)  # noqa: T201 - it is what this is for
        os.write(2, marker.encode())
        _Unraisable(marker)
        await asyncio.wait([asyncio.create_task(_fail(marker))])
        thread = threading.Thread(target=_fail_in_thread, args=[marker])
        thread.start()
        thread.join()
        self.finish()
        heard = self.sinks.carry(marker)
        expected = [*(f"log records of {name}" for name in LOGGERS), _STRUCTLOG, "stdout", "stderr", _WARNINGS]
        expected += [f"{sink}: attributes of the exception" for sink in (_UNRAISABLE, _THREADS, _LOOP)]
        return [sink for sink in expected if sink not in heard]

    def turn_up(self) -> None:
        """Turn all loggers up to DEBUG again, as an operator could: some libraries turn theirs down when first used."""
        for name in LOGGERS:
            logging.getLogger(None if name == "root" else name).setLevel(logging.DEBUG)

    def finish(self) -> None:
        """Finalize remaining objects and record the output so far."""
        gc.collect()
        out, err = self._capture.readouterr()
        self.sinks.hear("stdout", out)
        self.sinks.hear("stderr", err)

    def on_structlog(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        """A processor: the last, and the only one."""
        self.sinks.hear(_STRUCTLOG, f"{method} {dict(event)!r}")
        error = sys.exception() if event.get("exc_info") is True else event.get("exc_info")
        if isinstance(error, BaseException):
            self.sinks.hear_error(_STRUCTLOG, error)
        raise structlog.DropEvent

    def on_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's exception handler."""
        self.sinks.hear(_LOOP, repr(context))
        if isinstance(error := context.get("exception"), BaseException):
            self.sinks.hear_error(_LOOP, error)

    def on_warning(self, message: Warning | str, *place: object, **_: object) -> None:
        """`warnings.showwarning`."""
        self.sinks.hear(_WARNINGS, f"{message!r} {place!r}")

    def on_unraisable(self, unraisable: Any) -> None:
        """`sys.unraisablehook`."""
        self.sinks.hear(_UNRAISABLE, repr(unraisable.object))
        self.sinks.hear_error(_UNRAISABLE, unraisable.exc_value)

    def on_thread(self, failed: threading.ExceptHookArgs) -> None:
        """`threading.excepthook`."""
        if failed.exc_value is not None:
            self.sinks.hear_error(_THREADS, failed.exc_value)


class _Handler(logging.Handler):
    """Records log records, arguments and exceptions of a logger and its descendants."""

    def __init__(self, sinks: Sinks, name: str) -> None:
        super().__init__(logging.NOTSET)
        self._sinks = sinks
        self._sink = f"log records of {name}"

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != OTHERS

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.hear(self._sink, f"{self.format(record)} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1]:
            self._sinks.hear_error(self._sink, record.exc_info[1])


class _Unraisable:
    """Fails when it is forgotten."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def __del__(self) -> None:
        raise RuntimeError(self._marker)


async def _fail(marker: str) -> None:
    raise RuntimeError(marker)


def _fail_in_thread(marker: str) -> None:
    raise RuntimeError(marker)


@contextlib.asynccontextmanager
async def listening(sinks: Sinks, capture: pytest.CaptureFixture[str]) -> AsyncGenerator[Listener]:
    """Listen to everything, at DEBUG, and leave everything as it was."""
    listener, loop = Listener(sinks, capture), asyncio.get_running_loop()
    with contextlib.ExitStack() as restoring:
        for name in LOGGERS:
            _listen_to(restoring, sinks, name)
        _configure_structlog(restoring, listener)
        restoring.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        for module, hook, heard in (
            (warnings, "showwarning", listener.on_warning),
            (sys, "unraisablehook", listener.on_unraisable),
            (threading, "excepthook", listener.on_thread),
        ):
            restoring.callback(setattr, module, hook, getattr(module, hook))
            setattr(module, hook, heard)
        restoring.callback(loop.set_exception_handler, loop.get_exception_handler())
        loop.set_exception_handler(listener.on_loop)
        restoring.callback(loop.set_debug, loop.get_debug())
        loop.set_debug(True)
        yield listener
        listener.finish()


def _listen_to(restoring: contextlib.ExitStack, sinks: Sinks, name: str) -> None:
    logger, handler = logging.getLogger(None if name == "root" else name), _Handler(sinks, name)
    restoring.callback(logger.setLevel, logger.level)
    restoring.callback(logger.removeHandler, handler)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)


def _configure_structlog(restoring: contextlib.ExitStack, listener: Listener) -> None:
    restoring.callback(structlog.reset_defaults)
    structlog.reset_defaults()
    structlog.configure(processors=[listener.on_structlog], cache_logger_on_first_use=False)
    for module in list(sys.modules.values()):
        logger = getattr(module, "_log", None)
        if isinstance(logger, type(structlog.get_logger())):
            vars(logger).pop("bind", None)  # what an earlier configuration made it keep
