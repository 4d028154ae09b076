"""What a replay would do, as it is shown at the command line."""

from typing import Any

from consumers.replay.source import DryRunSummary
from consumers.retention.retained import RetainedDelivery
from oneprotect.cli.support.output import write_json, write_line, write_table
from schemas.configuration import ReplayFilter


class ShownPreview(DryRunSummary):
    """A preview that can be shown."""

    def write(self, tenant: str, chosen: ReplayFilter) -> None:
        """For programs."""
        by = [
            {"destination": destination, "code": code, "count": count}
            for (destination, code), count in sorted(self.counts.items())
            if count
        ]
        write_json(
            {
                "tenant": tenant,
                "filter": chosen,
                "replayable": self.total,
                "superseded": self.superseded,
                "by": by,
                "sample": [_sample(kept) for kept in self.samples],
            }
        )

    def show(self) -> None:
        """For people."""
        total = self.total
        left = f"{self.superseded} would be left alone, as they were attempted again since, or wait for that."
        write_line(f"{total} would be replayed; {left}")
        if total:
            by_count = [(destination, code, count) for (destination, code), count in self.counts.most_common() if count]
            write_table(("destination", "code", "deliveries"), by_count, empty="")
        if self.samples:
            write_line(f"\nThe first {len(self.samples)}:")
            rows = [
                (kept.stored_at, kept.destination, kept.id, kept.event_type, kept.code, not kept.superseded)
                for kept in self.samples
            ]
            write_table(("kept at", "destination", "id", "event type", "code", "replay"), rows, empty="")


def _sample(kept: RetainedDelivery) -> dict[str, Any]:
    return {
        "id": kept.id,
        "destination": kept.destination,
        "event_type": kept.event_type,
        "code": kept.code,
        "attempt": kept.attempt,
        "kept_at": kept.stored_at,
        "superseded": kept.superseded,
    }
