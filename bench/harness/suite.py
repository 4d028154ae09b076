"""The measurements of `python -m bench.all`, and the runner of one of them."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

ROOT: Final = Path(__file__).parents[2]
_STOP_S: Final = 20.0


class Measurement(Struct, frozen=True):
    """A command that writes `<name>.json`; `takes_s` is its duration in seconds on two idle cores."""

    name: str
    module: str
    takes_s: int
    arguments: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    """Additional arguments for a run of seconds, which only shows that the command works."""

    @property
    def command(self) -> str:
        """Return the command line."""
        return " ".join(("python -m", self.module, *self.arguments))

    @property
    def limit_s(self) -> float:
        """Return the seconds after which the command is stopped, with room for slow machines and downloads."""
        return 60 + 3 * self.takes_s

    def shortened(self) -> "Measurement":
        """Return the measurement with the arguments of a short run."""
        return Measurement(self.name, self.module, max(4, self.takes_s // 3), (*self.arguments, *self.short))


_ROUND: Final = ("--rounds", "1", "--seconds", "1")
_SHORT_FLOOD: Final = ("--seconds", "8", "--slow-s", "2")
_FEW: Final = ("--flood", "20000", *_SHORT_FLOOD)
MEASUREMENTS: Final = (
    Measurement("http", "bench", 32, ("--traced",), _ROUND),
    Measurement("https", "bench", 32, ("--traced", "--https"), _ROUND),
    Measurement("peers", "bench.peers", 140, (), _ROUND),
    Measurement("latency", "bench.latency", 36, (), ("--seconds", "1")),
    Measurement("destinations", "bench.destinations", 30, (), ("--rounds", "1", "--each", "3")),
    Measurement("slow", "bench.slow", 24, (), ("--count", "2000", "--answer-after-s", "2")),
    Measurement(
        "slow-https",
        "bench.slow",
        65,
        ("--https", "--answer-after-s", "12"),
        ("--count", "2000", "--answer-after-s", "2"),
    ),
    Measurement("fairness", "bench.fairness", 26, (), _FEW),
    Measurement("fairness-20", "bench.fairness", 26, ("--flooders", "20", "--tenants", "30"), _FEW),
    Measurement("fairness-4-workers", "bench.fairness", 42, ("--workers", "4", "--settle-s", "15"), _FEW),
    Measurement("fairness-200", "bench.fairness", 22, ("--flood", "30000", "--flooders", "200"), _SHORT_FLOOD),
    Measurement("schedules", "bench.schedules", 40, (), ("--count", "20000")),
    Measurement("secrets", "bench.secrets", 4),
    Measurement("api", "bench.api", 11, (), _ROUND),
    Measurement("telemetry", "bench.telemetry", 38, ("--rounds", "3", "--ways", "3"), _ROUND),
    Measurement("processes", "bench.processes", 28, (), _ROUND),
)


class Ran(Struct, frozen=True):
    """A finished run of a measurement: command, time, load of the machine before, duration and exit code.

    `code` is None when the run was stopped. With any other code than 0 the figures are not valid.
    """

    command: str
    at: datetime
    load: float
    took_s: float
    code: int | None = 0


def run(measurement: Measurement, results: Path, *, limit_s: float) -> Ran:
    """Run a measurement with the stdout and stderr of this process; results of an earlier run are deleted."""
    file = results / f"{measurement.name}.json"
    file.unlink(missing_ok=True)
    at, load, began = datetime.now(UTC), psutil.getloadavg()[0], time.monotonic()
    command = (sys.executable, "-m", measurement.module, *measurement.arguments, "--json", str(file))
    process = subprocess.Popen(command, cwd=ROOT)  # noqa: S603
    code: int | None = None
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f"{measurement.name} is stopped: it has not ended within {limit_s:.0f} s", file=sys.stderr)
    finally:
        _stop(process)
    return Ran(measurement.command, at, load, time.monotonic() - began, code)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the process if it still runs; its children end with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
