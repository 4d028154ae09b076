"""`python -m bench.destinations`: many destinations over HTTPS, each with few deliveries and no kept connections.

Nearly every delivery needs a new connection and a TLS handshake. The bare loop does the same work, in turns.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.harness.checks import problems
from bench.harness.command import run
from bench.harness.comparison import Beside, compared, rounds_in_turn, table
from bench.harness.errors import BenchError
from bench.harness.measure import Bench
from bench.harness.receiver import Manner
from bench.harness.site import opened
from bench.harness.workload import BARE, PRODUCT, TENANTS, Address


async def _measure(arguments: Namespace, directory: Path) -> Beside:
    addresses = [Address(TENANTS[n % len(TENANTS)], f"few-{n}") for n in range(arguments.destinations)]
    manner = Manner(ports=arguments.destinations, closes=True)
    async with (
        opened(directory, https=True, addresses=addresses, manner=manner) as site,
        site.product(PRODUCT, {}),
        site.bare(BARE),
    ):
        product, bare = benches = [Bench(site, one, addresses) for one in (PRODUCT, BARE)]
        for bench in benches:
            await bench.start()
        await rounds_in_turn(benches, arguments.rounds, arguments.destinations * arguments.each)
        if wrong := await problems(site, benches, await site.report()):
            raise BenchError("; ".join(wrong))
    return compared(product.rounds, bare.rounds)


def main() -> int:
    """Run the bench and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--destinations", type=int, default=500, help="each on a port of its own (%(default)s)")
        parser.add_argument("--each", type=int, default=10, help="deliveries to each (default %(default)s)")
        parser.add_argument("--rounds", type=int, default=3, help="rounds of each contender (default %(default)s)")

    def told(found: Beside) -> None:
        print("a connection and a TLS handshake for each delivery")
        print("\n".join(table(found)))

    return run("bench.destinations", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
