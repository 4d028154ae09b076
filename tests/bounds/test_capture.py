"""Captured response bodies that are expensive to search, or cannot be stored as they are."""

import asyncio
import time

from aiohttp import web

from schemas.codes import Outcome
from tests.support.site import Site
from tests.support.waiting import until

HOSTILE = "a" * 1500 + "\n" * 1500


async def test_a_captured_response_delays_nothing(site: Site) -> None:
    """Ten such responses of 3 KB cost the consumer no more than a moment."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=HOSTILE)

    application = web.Application()
    application.router.add_post("/in", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await site.destination("evil", f"http://127.0.0.1:{runner.addresses[0][1]}/in", capture_response=True)
    begun = time.process_time()

    async with site.consumer():
        deliveries = [await site.deliver("evil") for _ in range(10)]
        await until(site.is_settled, 20)
    spent_s = time.process_time() - begun
    results = await asyncio.gather(*[site.results(delivery) for delivery in deliveries])
    await runner.cleanup()

    assert [[result.outcome for result in one] for one in results] == [[Outcome.DELIVERED]] * 10
    assert all((one[0].response_body or "").startswith("***\n") for one in results)
    assert spent_s < 5


async def test_a_captured_surrogate_does_not_repeat_the_request(site: Site) -> None:
    """JSON escapes an emoji as two surrogates; one alone is no character, and could not be stored."""
    requests = 0

    async def handle(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(text='{"a":"\\ud83d\\ude00 \\ud800"}')

    application = web.Application()
    application.router.add_post("/in", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await site.destination("emoji", f"http://127.0.0.1:{runner.addresses[0][1]}/in", capture_response=True)

    async with site.consumer():
        delivery = await site.deliver("emoji")
        await until(site.is_settled, 20)
    results = await site.results(delivery)
    await runner.cleanup()

    assert requests == 1
    assert [(one.outcome, one.response_body) for one in results] == [
        (Outcome.DELIVERED, '{"a":"\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"}')
    ]
