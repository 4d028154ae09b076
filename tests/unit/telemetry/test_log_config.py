"""Log records of the product and of libraries, without sensitive values."""

import asyncio
import contextlib
import gc
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from telemetry.log_config import CHATTY, Format, Level
from tests.support.logs import product_logging

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configure logging to a stream in memory, and restore everything afterwards."""
    with contextlib.ExitStack() as stack:

        def start(level: Level = "debug", log_format: Format = "json") -> io.StringIO:
            return stack.enter_context(product_logging(level, log_format))

        yield start


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raise_with_secret(text: str) -> None:
    canary_local = text.encode()
    try:
        int(canary_local)
    except ValueError as error:
        raise KeyError(text) from error


def test_each_line_is_one_json_object(configure: Configure) -> None:
    """A record is one JSON object with the time in UTC, level, event, fields and logger."""
    stream = configure()

    structlog.get_logger("consumers.test").info("attempt", tenant="acme", duration_ms=1.5, delivery="X" * 64)

    (record,) = records(stream)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "level": "info",
        "event": "attempt",
        "logger": "consumers.test",
        "tenant": "acme",
        "duration_ms": 1.5,
        "delivery": "X" * 64,
    }


def test_level(configure: Configure) -> None:
    """Records below the level are dropped, for the product and for libraries."""
    stream = configure("warning")

    structlog.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    structlog.get_logger("a").warning("yes")
    logging.getLogger("b").warning("yes")

    assert [record["logger"] for record in records(stream)] == ["a", "b"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_own_exceptions(configure: Configure, log_format: Format) -> None:
    """An exception of the product shows its type and location, without text or locals."""
    stream = configure("debug", log_format)

    try:
        raise_with_secret("canary")
    except KeyError:
        structlog.get_logger("a").exception("broken")

    text = stream.getvalue()
    assert "canary" not in text
    assert "KeyError" in text
    assert "raise_with_secret" in text


def test_chained_and_grouped_exceptions(configure: Configure) -> None:
    """Causes and members of a group are shown by type."""
    stream = configure()

    try:
        raise_with_secret("canary")
    except KeyError as error:
        structlog.get_logger("a").error("broken", exc_info=ExceptionGroup("canary", [error]))

    (record,) = records(stream)
    (member,) = record["exception"]["group"]
    assert record["exception"]["type"] == "ExceptionGroup"
    assert (member["type"], member["causes"]) == ("KeyError", ["ValueError"])
    assert "canary" not in stream.getvalue()


def test_foreign_exceptions(configure: Configure) -> None:
    """A library's record shows the first line of its message and only the exception's type."""
    stream = configure()

    logging.getLogger("library").error("failed\ncanary", exc_info=ValueError("canary"))

    (record,) = records(stream)
    assert (record["event"], record["exception"]) == ("failed", {"type": "ValueError"})
    assert "canary" not in stream.getvalue()


def test_unformattable_records(configure: Configure) -> None:
    """A foreign record that can't be formatted is reported without its arguments."""
    stream = configure()

    logging.getLogger("library").error("%d", "canary")

    assert "could not be formatted" in stream.getvalue()
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("name", sorted(CHATTY))
def test_chatty_loggers(configure: Configure, name: str) -> None:
    """Libraries that print bodies and headers stay at WARNING, even if a lower level is set."""
    stream = configure()
    logger = logging.getLogger(f"{name}.rest")
    logger.setLevel(logging.DEBUG)

    logger.debug("response body: canary")
    logger.warning("alive")

    assert [record["event"] for record in records(stream)] == ["alive"]
    logger.setLevel(logging.NOTSET)


def test_exceptions_of_unawaited_tasks(configure: Configure) -> None:
    """asyncio's reports show the exception's type, without arguments or text."""
    stream = configure()

    async def fail() -> None:
        raise UnicodeDecodeError("utf-8", b"canary", 0, 1, "canary")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()
        asyncio.get_running_loop().call_soon(int, "canary")
        await asyncio.sleep(0)

    asyncio.run(main())

    task_record, callback_record = records(stream)
    assert task_record["event"] == "Task exception was never retrieved"
    assert task_record["exception"] == {"type": "UnicodeDecodeError"}
    assert callback_record["event"].startswith("Exception in callback")
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_scrubbing(configure: Configure, log_format: Format) -> None:
    """Text in the form of a secret is masked at any position, in all records."""
    stream = configure("debug", log_format)
    canary = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"

    structlog.get_logger("a").info(f"event {canary}", field=canary, nested={"deep": [canary]}, delivery=[canary])
    logging.getLogger("b").info("message %s", canary)

    assert stream.getvalue().count("whsec_***") == 5
    assert "Y2FuYXJ5" not in stream.getvalue()


def test_warnings_are_records(configure: Configure) -> None:
    """Python's warnings are log records too."""
    stream = configure()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("look out", stacklevel=1)

    assert "UserWarning: look out" in records(stream)[0]["event"]
