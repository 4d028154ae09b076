"""`python -m bench`: measure and print; exit with 1 unless every delivery arrived, signed and recorded."""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil
import uvloop

from bench.harness.checks import problems
from bench.harness.errors import BenchError
from bench.harness.measure import Bench
from bench.harness.result import Result, compared, measured, table
from bench.harness.site import Site, site
from bench.harness.workload import CONTENDERS, PRODUCT, Options
from bench.telemetry import TRACED, exporting
from messaging.client.errors import JetStreamError
from oneprotect.dev.nats_server import EmbeddedNatsError

_BEGAN: Final = time.monotonic()


async def _run(options: Options) -> Result:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as name:
        async with contextlib.AsyncExitStack() as stack:
            directory, variables = Path(name), dict[str, str]()
            if options.traced:
                variables = {**await stack.enter_async_context(exporting(directory, TRACED))}
            opened = await stack.enter_async_context(site(directory, https=options.https, variables=variables))
            return await _measured(opened, options)


async def _measured(opened: Site, options: Options) -> Result:
    benches = [Bench(opened, contender) for contender in CONTENDERS]
    for bench in benches:
        await bench.start()
    _say("all are ready")
    for number in range(1, options.rounds + 1):
        for bench in benches:
            one = await bench.round(options.seconds)
            _say(f"round {number}: {bench.contender.name}, {one.count} deliveries, {one.per_s:.0f}/s")
    for bench in benches:
        await bench.pace()
        _say(f"latency: {bench.contender.name}")
    report = await opened.report()
    found = await problems(opened, benches, report)
    if code := await opened.consumer(PRODUCT).stop():
        found.append(f"the consumer ended with {code}{opened.consumer(PRODUCT).log_tail()}")
    if found:
        raise BenchError("; ".join(found))
    return compared(options, *(measured(bench, report) for bench in benches), duplicates=report.duplicates)


def _say(what: str) -> None:
    print(f"{time.monotonic() - _BEGAN:5.1f} s  {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the bench and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=Options().rounds, help="rounds of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=Options().seconds, help="length of a round (%(default)s)")
    parser.add_argument("--https", action="store_true", help="over TLS 1.3, on kept connections")
    parser.add_argument("--traced", action="store_true", help="the product exports 5 %% of its traces, and its metrics")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    if not (1 <= arguments.rounds <= 20 and 0.5 <= arguments.seconds <= 10):
        parser.error("from 1 to 20 rounds of 0.5 to 10 seconds each")
    try:
        result = uvloop.run(_run(Options(arguments.rounds, arguments.seconds, arguments.https, arguments.traced)))
    except (BenchError, EmbeddedNatsError, JetStreamError, psutil.Error) as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench stopped", file=sys.stderr)
        return 1
    print("\n".join(table(result)))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
