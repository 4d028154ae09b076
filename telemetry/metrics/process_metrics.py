"""What this process takes of its machine, and what it is."""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from telemetry.metrics import definitions as catalogue
from telemetry.metrics.registry import Reading

_STARTED_AT: Final = time.time()
_STATM: Final = Path("/proc/self/statm")
_FDS: Final = Path("/proc/self/fd")


def process_readings(*, version: str, role: str) -> Callable[[], Iterator[Reading]]:
    """A source of readings for `Counters.watch`. `role`: `consumer` or `api`."""
    labels = (("version", version), ("python", platform.python_version()), ("role", role))

    def read() -> Iterator[Reading]:
        times = os.times()
        yield catalogue.BUILD, labels, 1
        yield catalogue.CPU, (), times.user + times.system
        yield catalogue.STARTED, (), _STARTED_AT
        yield catalogue.FILES_LIMIT, (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if _STATM.exists():  # Linux
            yield catalogue.MEMORY, (), int(_STATM.read_text().split()[1]) * resource.getpagesize()
            yield catalogue.FILES, (), len(os.listdir(_FDS))  # noqa: PTH208 - of thousands, no object each

    return read
