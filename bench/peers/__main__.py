"""`python -m bench.peers`: the product and the peers, the same deliveries, in turns, on the same machine and receiver.

Each round gives every one of them as many deliveries as keep it busy for a while, more than it can do at once, to the
same destinations with the same payload and 128 in flight; the receiver verifies each in full. The product runs with
every check and 5 % of its traces exported. CPU time is that of the whole system: workers and broker.

Before that each gives 1,000 deliveries to a broker of its kind, which is killed (-9) and started again: `peers:` is of
the best of those that lose none, as the product loses none; `peers-any:` of the best of all.
"""

import asyncio
import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.checks import problems
from bench.harness.command import run
from bench.harness.errors import BenchError
from bench.harness.measure import Bench
from bench.harness.site import Site, opened
from bench.harness.workload import PAYLOAD, PRODUCT
from bench.peers.broker import Broker, nats, redis, setup
from bench.peers.install import install, missing
from bench.peers.measure import PeerBench, Round
from bench.peers.plan import PEERS, Peer
from bench.peers.proof import COUNT, kept, kept_of_product
from bench.peers.result import Result, compared, table
from bench.telemetry import TRACED, exporting


async def _measure(arguments: Namespace, directory: Path) -> Result:
    peers, left_out = await asyncio.to_thread(_installed, arguments.peers or [peer.name for peer in PEERS])
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(opened(directory))
        variables = await stack.enter_async_context(exporting(directory, TRACED))
        (directory / "setup.json").write_bytes(setup(site, PAYLOAD))
        proof = await _proof(site, peers, directory)
        streams = nats(site)
        await streams.create()
        brokers: dict[str, Broker] = {"nats": streams}
        for kind in {peer.broker for peer in peers} - brokers.keys():
            one = redis(directory / kind.replace(" ", "-"), to_disk=kind == "redis")
            brokers[kind] = await stack.enter_async_context(one)
        benches = [PeerBench(site, peer, brokers[peer.broker], directory) for peer in peers]
        rounds = await _rounds(site, variables, benches, arguments.rounds, arguments.seconds)
        return compared(rounds, proof, left_out, (await site.report()).duplicates)


async def _proof(site: Site, peers: Sequence[Peer], directory: Path) -> dict[str, int]:
    """Return how many of 1,000 deliveries each keeps after a kill of its broker.

    Raises `BenchError` when the product loses any.
    """
    found = {PRODUCT.name: await kept_of_product(directory / "proof")}
    for peer in peers:
        found[peer.name] = await kept(peer, site, directory)
    for name, count in found.items():
        print(f"{name}: {count} of {COUNT} are there after kill -9 of the broker", file=sys.stderr, flush=True)
    if found[PRODUCT.name] != COUNT:
        raise BenchError(f"the product kept {found[PRODUCT.name]} of {COUNT} requests over kill -9 of its server")
    return found


async def _rounds(
    site: Site, variables: Mapping[str, str], peers: Sequence[PeerBench], rounds: int, seconds: float
) -> Mapping[str, Sequence[Round]]:
    """The rounds of each, the product's first. Raises `BenchError` unless everything was delivered and recorded."""
    product = Bench(site, PRODUCT)
    for number in range(1, rounds + 1):
        async with site.product(PRODUCT, variables):
            await product.start()
            _say(number, "product", (await product.round(seconds)).per_s)
            if code := await site.consumer(PRODUCT).stop():
                raise BenchError(f"the consumer ended with {code}{site.consumer(PRODUCT).log_tail()}")
        for peer in peers:
            _say(number, peer.peer.name, (await peer.round(seconds)).per_s)
    report = await site.report()
    published = {name for peer in peers for name in peer.published}
    if found := await problems(site, [product], report, published):
        raise BenchError("; ".join(found))
    ours = [Round(one.per_s, one.consumer_us, one.nats_us, one.count) for one in product.rounds]
    return {PRODUCT.name: ours} | {bench.peer.name: bench.rounds for bench in peers}


def _say(number: int, name: str, per_s: float) -> None:
    print(f"round {number}: {name}: {per_s:.0f}/s", file=sys.stderr, flush=True)


def _installed(names: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run, and why the others cannot. Raises `BenchError` if none can."""
    asked = [peer for peer in PEERS if peer.name in names]
    left_out = {peer.name: reason for peer in asked if (reason := missing(peer))}
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    able = [peer for peer in asked if peer.name not in left_out]
    for peer in able:
        install(peer)
    if not able:
        raise BenchError("none of the peers can run here")
    return able, left_out


def main() -> int:
    """Run it and return the exit code: 0 when everything was delivered, verified and recorded, by each of them."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default %(default)s)")
        parser.add_argument("--seconds", type=float, default=3.0, help="length of a round (%(default)s)")
        names = [peer.name for peer in PEERS]
        parser.add_argument(
            "--peers", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)} only these"
        )

    return run("bench.peers", __doc__, options, _measure, lambda result: print("\n".join(table(result))))


if __name__ == "__main__":
    sys.exit(main())
