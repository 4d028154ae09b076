"""Checks after a measurement: every delivery arrived, was signed, and is on record."""

from collections.abc import Collection, Iterable, Sequence

from bench.harness.measure import Bench
from bench.harness.receiver import Report
from bench.harness.site import Site
from bench.harness.workload import AIOHTTP, BARE, PRODUCT
from messaging import direct_get
from schemas import streams
from schemas.codes import Outcome
from schemas.events import decode_result

EMPTY = (
    streams.WORK,
    streams.OVERFLOW,
    streams.RETRIES,
    streams.FAILED,
    streams.QUARANTINE,
    BARE.work,
    AIOHTTP.work,
)


async def problems(site: Site, benches: Sequence[Bench], report: Report, others: Collection[str] = ()) -> list[str]:
    """Return the problems as sentences; `others` were published too, and are checked for receipt."""
    published = {name for bench in benches for name in bench.load.published_ns}.union(others)
    found = [*_received(published, report)]
    for bench in benches:
        if bench.contender is PRODUCT:
            found += _recorded(set(bench.load.published_ns), await _delivered_on_record(site))
            continue
        results, expected = await site.messages(bench.contender.results.name), len(bench.load.published_ns)
        if results != expected:
            found.append(f"{bench.contender.name} recorded {results} results of {expected}")
    for stream in EMPTY:
        if left := await site.messages(stream.name):
            found.append(f"{left} messages are left in {stream.name}")
    return found


def _received(published: set[str], report: Report) -> Iterable[str]:
    if lost := published - report.receipts.keys():
        yield f"{len(lost)} of {len(published)} deliveries were lost"
    if foreign := report.receipts.keys() - published:
        yield f"{len(foreign)} deliveries arrived that were not requested"
    for count, what in ((report.unsigned, "unsigned"), (report.wrong, "wrongly signed"), (report.broken, "broken")):
        if count:
            yield f"{count} requests were {what}"


def _recorded(published: set[str], recorded: list[str]) -> Iterable[str]:
    if missing := published.difference(recorded):
        yield f"{len(missing)} of {len(published)} deliveries have no result on record that says delivered"
    if len(recorded) != len(published):
        yield f"{len(recorded)} results say delivered, of {len(published)} deliveries"


async def _delivered_on_record(site: Site) -> list[str]:
    """Return `<path> <delivery id>` of each delivered result."""
    recorded: list[str] = []
    async for record in direct_get.scan(site.jetstream.connection, PRODUCT.results.name, PRODUCT.results.subjects[0]):
        event = decode_result(record.data)
        if event.data.outcome is Outcome.DELIVERED:
            recorded.append(f"/{event.tenant}/{event.data.destination} {event.data.delivery}")
    return recorded
