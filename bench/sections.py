"""The figures of each measurement as lines of Markdown."""

from bench import api, fairness, latency, processes, schedules, secrets, slow, telemetry
from bench.beside import Beside
from bench.page import Lines, Page, table
from bench.peers import plan as peers_plan
from bench.peers import result as peers_result
from bench.peers.proof import COUNT
from bench.peers.result import TITLES
from bench.result import Result
from bench.svg import Row

FLOODS = ("fairness", "fairness-20", "fairness-4-workers", "fairness-200")


def throughput(page: Page, scheme: str, result: Result) -> Lines:
    """One process beside both bare loops."""
    them = {"product": result.product, "bare loop": result.bare, "bare loop, aiohttp": result.aiohttp}
    rows: list[Row] = [(name, one.median.per_s, f"{one.median.per_s:,.0f}/s") for name, one in them.items()]
    yield page.picture(scheme, f"Deliveries a second of one process, {scheme.upper()}", rows)
    yield ""
    yield from table(
        ("", "deliveries/s", "CPU µs each", "p50 / p95 / p99 at 200/s, ms"),
        (
            (
                name,
                f"{one.median.per_s:,.0f}",
                f"{one.median.consumer_us:.0f}",
                f"{one.latency.p50_ms:.1f} / {one.latency.p95_ms:.1f} / {one.latency.p99_ms:.1f}",
            )
            for name, one in them.items()
        ),
    )
    yield ""
    yield f"`ratio: {result.ratio:.2f}`, `ratio-aiohttp: {result.ratio_aiohttp:.2f}`; by CPU time of the consumer"
    yield f"{result.cpu_ratio:.2f} and {result.cpu_ratio_aiohttp:.2f}."


def beside_peers(page: Page, result: peers_result.Result) -> Lines:
    """The product and the peers, and what each of them does not do."""
    peers = [peer for peer in peers_plan.PEERS if peer.name in result.peers]
    them = {"product": result.product} | {peer.title: result.peers[peer.name] for peer in peers}
    rows: list[Row] = [(name, one.system_us, f"{one.system_us:,.0f} µs") for name, one in them.items()]
    yield page.picture("peers", "CPU time per delivery, workers and broker: less is better", rows)
    yield ""
    yield from table(
        ("", "deliveries/s", "workers µs", "broker µs", "in all", "of the product's", "kept after kill -9"),
        (
            (
                name,
                f"{one.per_s:,.0f}",
                f"{one.workers_us:,.0f}",
                f"{one.broker_us:.0f}",
                f"{one.system_us:,.0f}",
                f"{one.times:.2f}",
                f"{one.kept:,} of {COUNT:,}",
            )
            for name, one in them.items()
        ),
    )
    yield ""
    if result.ratio and result.best:
        yield f"`peers: {result.ratio:.2f}`: {TITLES[result.best]}, the best of those that keep what they accept."
    yield f"`peers-any: {result.ratio_any:.2f}`: {TITLES[result.best_any]}, the best of all."
    yield "Everything was delivered, verified at the receiver and on record."
    yield ""
    yield from (f"- {peer.title}: {peer.how}; {peer.processes}." for peer in peers)
    yield from (f"- {name} is left out: {reason}." for name, reason in result.left_out.items())
    yield ""
    yield f"What none of the peers does by itself: {'; '.join(peers_plan.LACKING)}."
    yield ""
    yield from (f"- Nor does {peer.title}: {'; '.join(peer.lacks)}." for peer in peers if peer.lacks)


def paces(page: Page, found: list[latency.Measured]) -> Lines:
    """How soon, at each pace."""
    figures = [
        (name, one.asked_per_s, waits)
        for one in found
        for name, waits in (("product", one.product), ("bare loop", one.bare))
    ]
    rows: list[Row] = [(f"{name}, {per_s:,.0f}/s", w.p95_ms, f"{w.p95_ms:.1f} ms") for name, per_s, w in figures]
    yield page.picture("latency", "From publish to receipt, p95", rows)
    yield ""
    yield from table(
        ("deliveries/s", "", "p50 ms", "p95 ms", "p99 ms"),
        (
            (f"{per_s:,.0f}", name, f"{w.p50_ms:.1f}", f"{w.p95_ms:.1f}", f"{w.p99_ms:.1f}")
            for name, per_s, w in figures
        ),
    )


def many_destinations(page: Page, found: Beside) -> Lines:
    """A handshake for each delivery."""
    both = (("product", found.product), ("bare loop", found.bare))
    rows: list[Row] = [(name, one.per_s, f"{one.per_s:,.0f}/s") for name, one in both]
    yield page.picture("destinations", "Deliveries a second, a connection and handshake for each", rows)
    yield ""
    yield from table(
        ("", "deliveries/s", "CPU µs each", "nats-server µs", "receiver µs"),
        (
            (name, f"{one.per_s:,.0f}", *(f"{us:,.0f}" for us in (one.consumer_us, one.nats_us, one.receiver_us)))
            for name, one in both
        ),
    )
    yield ""
    yield "Each delivery has a connection and a handshake of its own."
    yield f"`ratio: {found.ratio:.2f}`; by CPU time of the consumer {found.cpu_ratio:.2f}."


def in_flight(page: Page, name: str, found: slow.Measured) -> Lines:
    """Memory of what waits for its answer."""
    both = (("product", found.product), ("bare loop", found.bare))
    rows: list[Row] = [(who, one.kb_each, f"{one.kb_each:.1f} KB") for who, one in both]
    yield page.picture(name, "Memory of a delivery in flight: less is better", rows)
    yield ""
    yield from table(
        ("", "in flight at a time", "memory, MB", "KB each", "CPU µs each"),
        (
            (
                who,
                f"{one.at_once:,}",
                f"{one.base_mb:.0f} -> {one.most_mb:.0f}",
                f"{one.kb_each:.1f}",
                f"{one.consumer_us:.0f}",
            )
            for who, one in both
        ),
    )
    yield ""
    yield f"{found.count:,} deliveries to each, all delivered. `ratio: {found.ratio:.2f}`: memory, bare loop / product."


def floods(page: Page) -> Lines:
    """All of them in one table."""
    ran = [name for name in FLOODS if name in page.machine.ran]
    if not ran:
        return
    yield from ("### Beside a flood: `python -m bench.fairness`", "")
    for name in ran:
        yield from page.complaint(name)
    yield "One tenant floods receivers that take 5 s; the others, with a destination each, get 200 deliveries/s in all."
    yield "Their milliseconds are from publish to receipt; the last column has what the flood got of what its own"
    yield "limits allow."
    yield ""
    yield from table(
        ("flood, to destinations", "others", "workers", "p50", "p95", "p99", "longest", "missing", "the flood's"),
        (
            (
                f"{one.options.flood:,} to {one.options.flooders}",
                one.options.tenants,
                one.options.workers,
                *(f"{ms:.1f}" for ms in (one.p50_ms, one.p95_ms, one.p99_ms, one.longest_ms)),
                one.missing,
                f"{one.attempts:,} of {one.attempts_due:,.0f}",
            )
            for name in ran
            if (one := page.found(name, fairness.Measured))
        ),
    )
    yield ""
    yield f"Commands: {'; '.join(f'`{page.machine.ran[name].command}`' for name in ran)}."
    yield ""


def waiting(one: schedules.Measured) -> Lines:
    """Schedules in the server."""
    base_mb, with_them_mb, restarted_mb = one.memory_mb
    yield f"{one.count:,} scheduled retries, published at {one.per_s:,.0f}/s: {one.disk_mb:.0f} MB on disk,"
    yield f"server memory {base_mb:.0f} -> {with_them_mb:.0f} MB ({restarted_mb:.0f} MB after kill -9 and a restart of"
    yield f"{one.restart_s:.1f} s), {one.at_rest_percent:.1f} % of a core at rest."
    yield f"1,000 due at one instant fired {one.late_s[0]:.2f} to {one.late_s[2]:.2f} s late; none is missing."


def resolves(rows: list[secrets.Row]) -> Lines:
    """What resolving costs."""
    return table(("", "measured", "wanted"), ((row.what.strip(), row.found, row.wanted) for row in rows))


def posts(page: Page, found: dict[str, api.Measured]) -> Lines:
    """The API beside its bare loop."""
    rows: list[Row] = [(name, one.per_s, f"{one.per_s:,.0f}/s") for name, one in found.items()]
    yield page.picture("api", "Deliveries published through the API, a second", rows)
    yield ""
    yield from table(
        ("", "POST/s", "CPU µs", "p50 ms", "p99 ms"),
        (
            (name, f"{one.per_s:,.0f}", f"{one.cpu_us:.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}")
            for name, one in found.items()
        ),
    )


def exports(page: Page, found: list[telemetry.Told]) -> Lines:
    """What telemetry costs."""
    rows: list[Row] = [(one.name, one.consumer_us, f"{one.consumer_us:.0f} µs") for one in found]
    yield page.picture("telemetry", "CPU time of the consumer per delivery: less is better", rows)
    yield ""
    yield from table(
        ("", "deliveries/s", "CPU µs", "throughput", "by CPU"),
        (
            (one.name, f"{one.per_s:,.0f}", f"{one.consumer_us:.0f}", f"{one.share:.2f}", f"{one.cpu_share:.2f}")
            for one in found
        ),
    )


def by_processes(page: Page, found: list[processes.Measured]) -> Lines:
    """One process, and several under one parent."""
    rows: list[Row] = [(f"product, {one.processes}", one.per_s, f"{one.per_s:,.0f}/s") for one in found]
    yield page.picture("processes", "Deliveries a second, by processes", rows)
    yield ""
    yield from table(
        ("processes", "deliveries/s", "times", "CPU µs each"),
        ((one.processes, f"{one.per_s:,.0f}", f"{one.times:.2f}", f"{one.consumer_us:.0f}") for one in found),
    )
