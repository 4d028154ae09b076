"""Metrics of the process itself: build, CPU, memory, files."""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample

_STARTED_AT: Final = time.time()
_STATM: Final = Path("/proc/self/statm")
_FDS: Final = Path("/proc/self/fd")


def process_readings(*, version: str, role: str) -> Callable[[], Iterator[MetricSample]]:
    """Return a source for `MetricRegistry.add_source`. `role`: `consumer` or `api`."""
    labels = (("version", version), ("python", platform.python_version()), ("role", role))

    def read() -> Iterator[MetricSample]:
        times = os.times()
        yield definitions.BUILD, labels, 1
        yield definitions.CPU, (), times.user + times.system
        yield definitions.STARTED, (), _STARTED_AT
        yield definitions.FILES_LIMIT, (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if _STATM.exists():  # Linux
            yield definitions.MEMORY, (), int(_STATM.read_text().split()[1]) * resource.getpagesize()
            yield definitions.FILES, (), len(os.listdir(_FDS))  # noqa: PTH208 - no object for each of thousands of files

    return read
