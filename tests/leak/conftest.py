"""Fixtures of the leak tests: sinks, and a listener on this process."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.leak.support.listening import Listener, listening
from tests.leak.support.sinks import Sinks


@pytest.fixture
def sinks() -> Sinks:
    """Output of this test."""
    return Sinks()


@pytest_asyncio.fixture
async def listener(sinks: Sinks, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Listener]:
    """This process, listened to at DEBUG."""
    async with listening(sinks, capfd) as listener:
        yield listener
