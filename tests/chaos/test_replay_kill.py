"""kill -9 of a replay under load: each delivery is requested once, even after the duplicate window."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from schemas import streams
from schemas.headers import HEADER_MSG_ID
from tests.support.retained_deliveries import keep, waiting
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

COUNT = 9_000
KILLED_AT = (1_000, 4_000, 7_000)
SHORTEST_WINDOW_NS = 100_000_000


async def test_a_replay_survives_repeated_kills(site: Site, figure: Callable[[str], None]) -> None:
    """A replay killed three times requests each delivery once, even after the duplicate window."""
    for stream in (streams.WORK, streams.OVERFLOW):
        config = (await site.jetstream.connection.api(f"STREAM.INFO.{stream.name}"))["config"]
        short = {**config, "duplicate_window": SHORTEST_WINDOW_NS}
        await site.jetstream.connection.api(f"STREAM.UPDATE.{stream.name}", short)
    deliveries = await keep(site, COUNT // 2) + await keep(site, COUNT // 2, destination="invoices")
    environ = site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}
    arguments = ("replay", "--tenant", TENANT, "--json")
    cursors: list[int] = []

    for killed_at in KILLED_AT:
        process = await Process.start(environ, *arguments)
        await until(lambda killed_at=killed_at: _has_stored(site, killed_at), 20)  # type: ignore[misc]
        process.kill()
        await process.wait()
        (row,) = (await site.jetstream.replayer.list(TENANT)).values()
        cursors.append(row.cursor)
    stored = await site.waiting()
    process = await Process.start(environ, *arguments)
    code = await asyncio.wait_for(process.wait(), 30)

    told = json.loads(process.output)
    asked = Counter(record.headers[HEADER_MSG_ID] for record in await waiting(site))
    names = {msg_id.split(".")[2] for msg_id in asked}
    assert code == 0
    assert (told["resumed"], told["replayed"], told["skipped"], told["state"]) == (True, COUNT, 0, "finished")
    assert stored < COUNT, "it was killed before it was through"
    assert max(cursors) < stored, "it was killed with requests stored that the cursor does not know of"
    assert set(asked.values()) == {1}
    assert names == set(deliveries)
    figure(f"{COUNT} kept, 3 kills at {cursors} done by the cursor, 0 missed, 0 asked for twice")


async def _has_stored(site: Site, count: int) -> bool:
    return await site.waiting() >= count
