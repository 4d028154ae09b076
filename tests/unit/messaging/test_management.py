"""Management requests."""

from typing import Any, cast

from messaging.client.connection import NatsConnection
from messaging.management import stream_info

PAGE = 2
SUBJECTS = {f"orders.{number}": number + 1 for number in range(5)}


class PagingServer:
    """A server that reports two subjects in one reply."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    async def api(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return one page of subjects."""
        assert (name, request["subjects_filter"]) == ("STREAM.INFO.ORDERS", "orders.*")
        offset = request.get("offset", 0)
        self.offsets.append(offset)
        page = dict(list(SUBJECTS.items())[offset : offset + PAGE])
        state = {"messages": 15, "bytes": 1, "first_seq": 1, "last_seq": 15, "subjects": page}
        times = {"first_ts": "2026-11-23T20:00:00Z", "last_ts": "2026-11-23T20:00:05Z"}
        return {
            "config": {},
            "state": state | times,
            "ts": "2026-11-23T20:00:07Z",
            "total": len(SUBJECTS),
            "offset": offset,
            "limit": PAGE,
        }


async def test_subject_counts_are_read_page_by_page() -> None:
    """Every subject is counted, although one reply holds only two."""
    server = PagingServer()
    info = await stream_info(cast("NatsConnection", server), "ORDERS", subjects="orders.*")
    assert info.state.subjects == SUBJECTS
    assert server.offsets == [0, 2, 4]
    assert info.oldest_age_s == 7
