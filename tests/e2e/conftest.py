"""Fixtures for browser tests: one scene and one browser for all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from oneprotect.dev.nats_server import EmbeddedNats
from tests.e2e.browser import HOW, chromium, launched
from tests.e2e.scene import Scene, scene
from tests.support.site import Site


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def day(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Return the scene; each test restores the state that the others need."""
    if chromium() is None:
        pytest.skip(HOW)
    directory: Path = tmp_path_factory.mktemp("console")
    async with (
        EmbeddedNats(directory / "nats") as server,
        Site(directory, server, secret_retry_schedule_s="3600") as site,
        scene(site) as opened,
    ):
        yield opened


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """Return a running Chromium."""
    path = chromium()
    if path is None:
        pytest.skip(HOW)
    async with launched(path) as opened:
        yield opened
