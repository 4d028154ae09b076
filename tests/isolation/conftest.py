"""Fixtures of the suite that plays the hostile tenant: an installation for each module, and a bound of the latency."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.isolation.installation import Installation, running_installation


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Installation]:
    """Return a running installation."""
    async with running_installation(tmp_path_factory.mktemp("installation"), tenant_max_ordered="2000") as opened:
        yield opened


@pytest.fixture
def p99_ms(request: pytest.FixtureRequest) -> float:
    """Return the bound of the victim's 99th percentile; `make chaos` asks for the strict one."""
    bound: float = request.config.option.p99_ms
    return bound
