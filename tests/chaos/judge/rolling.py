"""A rolling replacement of all programs by another version, one after the other, as an operator does it."""

import asyncio
import signal
import time
from collections.abc import Sequence

from tests.chaos.judge.history import Event
from tests.chaos.judge.installation import Installation
from tests.chaos.judge.versions import Version


class RollingReplacement:
    """Replaces the programs by each of some versions; the first time after `oneprotect apply` of that version."""

    def __init__(self, site: Installation, versions: Sequence[Version]) -> None:
        self.site, self.versions = site, versions
        self.events: list[Event] = []

    async def run(self, until: float) -> None:
        """Replace all programs by each version, and spread this over the time."""
        applied = {self.site.version}
        pause_s = (until - time.monotonic()) / (len(self.versions) * len(self.site.programs) + 1)
        for version in self.versions:
            if version not in applied:
                await self.site.apply(version)
                applied.add(version)
            for program in self.site.programs:
                await asyncio.sleep(pause_s)
                started, label = time.monotonic(), program.label
                program.signal(signal.SIGTERM)
                await program.ended()
                program.version = version
                program.start()
                self.events.append(Event("stop", label, started, time.monotonic()))
