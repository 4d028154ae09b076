"""The product's logging inside a test, and none of it afterwards."""

import contextlib
import io
import logging
from collections.abc import Generator

import structlog

from consumers.observability import attempt_metrics
from telemetry.log_config import CHATTY, Format, Level, configure_logging


@contextlib.contextmanager
def product_logging(level: Level = "info", log_format: Format = "json") -> Generator[io.StringIO]:
    """Configure logging to a stream in memory. The attempts' logger forgets the configuration that it kept."""
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    root.handlers.clear()
    stream = io.StringIO()
    _reset_logger()
    configure_logging(level=level, format=log_format, stream=stream)
    try:
        yield stream
    finally:
        _reset_logger()
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.NOTSET)
        root.handlers[:] = handlers
        root.setLevel(root_level)


def _reset_logger() -> None:
    vars(getattr(attempt_metrics, "_log", None)).pop("bind", None)
