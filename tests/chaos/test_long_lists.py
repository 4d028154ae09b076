"""The longest lists that the product promises to carry, with times and memory."""

from collections.abc import Callable

import aiohttp
import pytest

from oneprotect.dev.nats_server import free_port
from tests.isolation.long_lists import ListSizes, Stopwatch, fill, is_checked_within, use_lists
from tests.support.api import Api
from tests.support.receiver import Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

pytestmark = [pytest.mark.serial, pytest.mark.long]

SIZES = ListSizes(destinations=19_990, all_destinations=100_000, credentials=19_990, tokens=19_990, replays=10_000)
"""The quotas of one tenant are 20,000, and the test adds some."""


@pytest.mark.timeout(600)
async def test_the_longest_lists(site: Site, receiver: Scripted, figure: Callable[[str], None]) -> None:
    """An API process and a consumer process start and serve every tenant with the promised numbers of everything."""
    watch = Stopwatch()
    await fill(site, SIZES)
    watch.lap("fill the buckets")
    lines = watch.lines + await _use_api(site) + await _use_consumer(site, receiver)
    for line in lines:
        figure(line)


async def _use_api(site: Site) -> list[str]:
    port = free_port()
    process = await Process.start(site.environ | {"ONEPROTECT_API_PORT": str(port)}, "api")
    watch = Stopwatch(process.process.pid)
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            api = Api(site, f"http://127.0.0.1:{port}", session)
            await until(lambda: process.says("api.started"), 30)
            await until(api.is_ready, 30)
            watch.lap("API: start until ready")
            await use_lists(api, SIZES, watch)
    finally:
        process.kill()
        await process.wait()
    return watch.lines


async def _use_consumer(site: Site, receiver: Scripted) -> list[str]:
    async with site.consumer_process() as process:
        watch = Stopwatch(process.process.pid)
        await until(lambda: process.says("consumer.started"), 30)
        watch.lap("consumer: start")
        checked_s = [await is_checked_within(site, 5) for _ in range(5)]
        watch.lap(f"consumer: another tenant's credentials are checked after {max(checked_s):.2f} s at most")
        await site.destination("orders", receiver.url)
        await site.deliver("orders")
        await until(lambda: receiver.seen)
        watch.lap("consumer: a delivery")

        async def are_all_checked() -> bool:
            return len(await site.jetstream.statuses.list_keys("acme.*")) > SIZES.credentials

        await until(are_all_checked, 120)
        watch.lap(f"consumer: check {SIZES.credentials} credentials")
        return watch.lines
