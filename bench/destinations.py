"""`python -m bench.destinations`: many destinations, each with little to do and closing its connections, over HTTPS.

Then nearly every delivery pays for a connection and a TLS handshake of its own, and nothing that is kept helps.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.checks import problems
from bench.command import run
from bench.errors import BenchError
from bench.measure import Bench, Throughput
from bench.plan import PRODUCT, TENANTS, Address
from bench.receiver import Manner
from bench.site import opened


async def _measure(arguments: Namespace, directory: Path) -> Throughput:
    addresses = [Address(TENANTS[n % len(TENANTS)], f"few-{n}") for n in range(arguments.destinations)]
    manner = Manner(ports=arguments.destinations, closes=True)
    async with (
        opened(directory, https=True, addresses=addresses, manner=manner) as site,
        site.product(PRODUCT, {}),
    ):
        bench = Bench(site, PRODUCT, addresses)
        await bench.start()
        found = await bench.saturate(arguments.destinations * arguments.each)
        if wrong := await problems(site, bench, [], await site.report()):
            raise BenchError("; ".join(wrong))
    return found


def main() -> int:
    """Run it and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--destinations", type=int, default=500, help="each on a port of its own (%(default)s)")
        parser.add_argument("--each", type=int, default=10, help="deliveries to each (default %(default)s)")

    def told(found: Throughput) -> None:
        print(f"{found.per_s:.0f} deliveries/s, a connection and a TLS handshake for each; CPU us per delivery:")
        print(f"consumer {found.consumer_us:.0f}, nats {found.nats_us:.0f}, receiver {found.receiver_us:.0f}")

    return run("bench.destinations", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
