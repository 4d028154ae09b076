"""The audit trail of replays: who began, resumed or cancelled one, and how far it came."""

from datetime import UTC, datetime
from typing import Any, Final

from consumers.replay.store import ReplayRow
from messaging.audit_events import publish_audit_event
from messaging.publisher import JetStreamPublisher
from schemas.configuration import Replay, ReplayState
from schemas.events import ReplayData, ReplayFinished, ReplayStarted

SOURCE: Final = "/oneprotect/replay"


class ReplayAudit:
    """Publishes the events. Raises `JetStreamError`."""

    def __init__(self, publisher: JetStreamPublisher) -> None:
        self._publisher = publisher

    async def started(self, tenant: str, row: ReplayRow, *, by: str, turn: int) -> None:
        """It runs from now on, for `by`. `turn` tells this start from others of the same replay."""
        event = ReplayStarted(data=_data(row, by), **_envelope(tenant, f"{row.id}.{turn}"))
        await publish_audit_event(self._publisher, "replay.started", row.id, event)

    async def ended(self, tenant: str, row: ReplayRow, *, by: str) -> None:
        """It came to its end, if it did: for `by`, or for who cancelled it. Told twice, it counts once."""
        if row.replay.state is ReplayState.RUNNING:
            return
        event = ReplayFinished(data=_data(row, row.replay.cancelled_by or by), **_envelope(tenant, f"{row.id}.ended"))
        await publish_audit_event(self._publisher, "replay.finished", row.id, event)


def _data(row: ReplayRow, by: str) -> ReplayData:
    replay = row.replay
    return ReplayData(
        replay=row.id,
        by=by,
        address=_address(replay, by),
        replayed=replay.replayed,
        skipped=replay.skipped,
        state=replay.state.value,
    )


def _address(replay: Replay, by: str) -> str | None:
    """From where `by` has asked for it, or has cancelled it."""
    if replay.cancelled_by is not None:
        return replay.cancelled_from
    return replay.address if by == replay.by else None


def _envelope(tenant: str, event: str) -> dict[str, Any]:
    return {"specversion": "1.0", "id": event, "source": SOURCE, "time": datetime.now(UTC), "tenant": tenant}
