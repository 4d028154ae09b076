"""Sinks of this process: each records its output, and a secret in the output is found."""

import logging

from tests.leak.support.listening import LOGGERS, Listener
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Canary, Search


async def test_every_sink_is_alive(listener: Listener) -> None:
    """A marker written to a sink is recorded."""
    deaf = await listener.prove_alive("a-harmless-marker")

    assert deaf == []


async def test_a_secret_is_found_at_every_sink(listener: Listener, sinks: Sinks) -> None:
    """The search finds a secret wherever the marker was found."""
    canary = Canary.word("word")

    await listener.prove_alive(canary.reveal())

    found = {line.partition(": word")[0] for line in sinks.findings(Search(canary))}
    assert found >= {f"log records of {name}" for name in LOGGERS} | {"structlog", "stdout", "stderr", "warnings"}
    assert found >= {
        f"{sink}: attributes of the exception"
        for sink in ("unraisable exceptions", "threads' exceptions", "the event loop's exception handler")
    }


async def test_listening_leaves_no_trace(listener: Listener, sinks: Sinks) -> None:
    """A sink contains its own output under its own name only."""
    logging.getLogger("nats.somewhere").debug("just this")
    listener.finish()

    assert sinks.carry("just this") == ["log records of nats", "log records of root"]
