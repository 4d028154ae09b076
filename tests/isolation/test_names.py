"""A tenant whose receivers have names that no server answers for: others resolve their names in time."""

from collections.abc import AsyncGenerator, Callable
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.component.dns.name_server import Question, serving_names
from tests.isolation.installation import VICTIM, Installation, running_installation

pytestmark = [pytest.mark.serial, pytest.mark.asyncio(loop_scope="module")]

Figure = Callable[[str], None]


def respond(question: Question) -> list[bytes]:
    """Answer for the victim's names, which change within seconds; be silent about those of the hostile tenant."""
    return [question.addresses("127.0.0.1", ttl_s=0)] if question.name.endswith("alive.example.com") else []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def named(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Installation]:
    """Return an installation whose victim has a receiver with a name, resolved by a name server of the test."""
    async with (
        serving_names(respond) as server,
        running_installation(
            tmp_path_factory.mktemp("named"), egress_dns_servers=f"{server.address[0]}:{server.address[1]}"
        ) as opened,
    ):
        orders = await opened.site.jetstream.configuration.get_destination(VICTIM, "orders")
        port = urlsplit(orders.url).port
        await opened.add_destinations(VICTIM, {"named": f"http://hooks.alive.example.com:{port}/in"})
        yield opened


@pytest.mark.parametrize("destinations", [200, pytest.param(3000, marks=pytest.mark.long)])
async def test_names_without_an_answer_delay_no_other(
    named: Installation, p99_ms: float, figure: Figure, destinations: int
) -> None:
    """Lookups that wait for a silent name server take no slot that another tenant needs."""
    tenant = f"dead-{destinations}"
    await named.add_tenant(tenant)
    urls = {f"hook-{number}": f"http://n{number}.dead.example.com:8080/" for number in range(destinations)}
    await named.add_destinations(tenant, urls)
    await named.fill([(tenant, name) for name in urls], 5)
    report = await named.victim.run(named.api, seconds=12, destination="named")

    figure(str(report))
    report.require(p99_ms)
