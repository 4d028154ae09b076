"""What a replay would do: counts by destination and code, and the first few deliveries."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from consumers.replay.superseded import SupersededPage
from consumers.retention.retained import RetainedDelivery

SAMPLES: Final = 10


class DryRunSummary:
    """Counts what it is shown."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """How many would be replayed, by destination and code."""
        self.superseded = 0
        """How many would be left alone: attempted again since, or waiting for that."""
        self.samples: list[RetainedDelivery] = []

    @property
    def total(self) -> int:
        """How many would be replayed."""
        return self.counts.total()

    async def add_pages(self, pages: AsyncIterator[SupersededPage]) -> None:
        """Count everything in `pages`."""
        async for page in pages:
            for kept in page.marked_deliveries():
                self.counts[kept.destination, kept.code] += not kept.superseded
                self.superseded += kept.superseded
                if len(self.samples) < SAMPLES:
                    self.samples.append(kept)
