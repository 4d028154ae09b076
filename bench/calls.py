"""`python -m bench.calls`: number of function calls per delivery in the consumer, with an upper limit.

Durations depend on the machine and its other load. The calls of Python functions, and of C functions from Python,
depend on the program alone, except for the number of messages per read: they vary by fifteen percent.
"""

import argparse
import asyncio
import collections
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Final

import uvloop

from bench.harness.errors import BenchError
from bench.harness.load import Load
from bench.harness.measure import BURST_TIMEOUT_S
from bench.harness.site import START_TIMEOUT_S, Site, opened
from bench.harness.workload import PRODUCT
from oneprotect.bootstrap.consumer import run_consumer
from oneprotect.settings.settings import Settings
from telemetry.log_config import configure_logging

MOST_CALLS: Final = 280
"""Limit of `make check`. Lower it when a change saves calls; raise it only with a reason."""
DELIVERIES: Final = 4500
WARM_UP: Final = 1500

_ROOT: Final = Path(__file__).resolve().parent.parent


class Calls:
    """A counter of calls on this thread, by the file of the caller."""

    def __init__(self) -> None:
        self.by_place: collections.Counter[tuple[str, str]] = collections.Counter()

    def start(self) -> None:
        """Start counting."""
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            code = frame.f_code
            self.by_place[code.co_filename, code.co_qualname] += 1


async def _counted() -> Calls:
    with tempfile.TemporaryDirectory(prefix="oneprotect-calls-") as directory:
        async with opened(Path(directory)) as site:
            return await _in_this_process(site)


async def _in_this_process(site: Site) -> Calls:
    stop, calls = asyncio.Event(), Calls()
    settings = Settings.load(site.environ, resolves_secrets=True)
    load = Load(site.jetstream.publisher, PRODUCT)
    await load.burst(DELIVERIES)
    site.receiver.tell(b"expect %d %d" % (DELIVERIES, WARM_UP))
    await site.receiver.hear("expecting", START_TIMEOUT_S)
    consuming = asyncio.create_task(run_consumer(settings, stop=stop))
    try:
        await site.receiver.hear("warm", BURST_TIMEOUT_S)
        calls.start()
        await site.receiver.hear("complete", BURST_TIMEOUT_S)
        calls.stop()
    finally:
        calls.stop()
        stop.set()
        await consuming
    return calls


def main() -> int:
    """Count, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    parser.add_argument("--top", type=int, default=0, metavar="N", help="list the N functions that call most")
    arguments = parser.parse_args()
    configure_logging(level="error", format="console")
    try:
        calls = uvloop.run(_counted())
    except BenchError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    counted = DELIVERIES - WARM_UP
    for (file, name), count in calls.by_place.most_common(arguments.top):
        place = os.path.relpath(file, _ROOT).rpartition("site-packages/")[2]
        print(f"{count / counted:8.2f}  {name} ({place})")
    per_delivery = sum(calls.by_place.values()) / counted
    print(f"calls per delivery: {per_delivery:.0f} (at most {MOST_CALLS})")
    return int(per_delivery > MOST_CALLS)


if __name__ == "__main__":
    sys.exit(main())
