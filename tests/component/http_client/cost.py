"""The cost of what a receiver sends."""

import contextlib
import sys
import time
from collections.abc import Generator
from types import FrameType
from typing import Any


class Cost:
    """The calls of Python functions and the CPU time of this thread."""

    def __init__(self) -> None:
        self.calls = 0
        self.cpu_s = 0.0

    @contextlib.contextmanager
    def measured(self) -> Generator[None]:
        """Count what the block takes."""
        sys.setprofile(self._on_event)
        begun = time.thread_time()
        try:
            yield
        finally:
            self.cpu_s = time.thread_time() - begun
            sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        self.calls += event == "call" and "http_client" in frame.f_code.co_filename
