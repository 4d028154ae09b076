"""What a replay would do: counts by destination and code, and the first few deliveries."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

from consumers.kept import Kept
from consumers.later import Page
from oneprotect.cli.output import write_json, write_line, write_table
from schemas.config import ReplayFilter

SAMPLES: Final = 10


class Preview:
    """Counts what it is shown, and shows the counts."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._superseded = 0
        self._samples: list[Kept] = []

    async def count(self, pages: AsyncIterator[Page]) -> None:
        """Count everything in `pages`."""
        async for page in pages:
            for kept in page.judged():
                self._counts[kept.destination, kept.code] += not kept.superseded
                self._superseded += kept.superseded
                if len(self._samples) < SAMPLES:
                    self._samples.append(kept)

    def write(self, tenant: str, chosen: ReplayFilter) -> None:
        """For programs."""
        by = [
            {"destination": destination, "code": code, "count": count}
            for (destination, code), count in sorted(self._counts.items())
            if count
        ]
        write_json(
            {
                "tenant": tenant,
                "filter": chosen,
                "replayable": self._counts.total(),
                "superseded": self._superseded,
                "by": by,
                "sample": [_sample(kept) for kept in self._samples],
            }
        )

    def show(self) -> None:
        """For people."""
        total = self._counts.total()
        left = f"{self._superseded} would be left alone, as they were attempted again since, or wait for that."
        write_line(f"{total} would be replayed; {left}")
        if total:
            by_count = [
                (destination, code, count) for (destination, code), count in self._counts.most_common() if count
            ]
            write_table(("destination", "code", "deliveries"), by_count, empty="")
        if self._samples:
            write_line(f"\nThe first {len(self._samples)}:")
            rows = [
                (kept.stored_at, kept.destination, kept.id, kept.event_type, kept.code, not kept.superseded)
                for kept in self._samples
            ]
            write_table(("kept at", "destination", "id", "event type", "code", "replay"), rows, empty="")


def _sample(kept: Kept) -> dict[str, Any]:
    return {
        "id": kept.id,
        "destination": kept.destination,
        "event_type": kept.event_type,
        "code": kept.code,
        "attempt": kept.attempt,
        "kept_at": kept.stored_at,
        "superseded": kept.superseded,
    }
