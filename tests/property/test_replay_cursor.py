"""The cursor of a replay, on a model of the server: whatever is stored, refused, lost or killed, and in any order."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.replay.run import CATCH_UP_S, Pacer, ReplayRun
from consumers.replay.source import SupersededIndex, SupersededPage
from consumers.replay.window import CompletionQueue, QueuedItem
from consumers.retention.retained import RetainedDelivery, RetainedRecord
from messaging.client.errors import SUBJECT_FULL, JetStreamError, RejectedByServer, ServerUnavailable
from messaging.direct_get import StoredMessage
from messaging.publication import Publication, PublishAck
from schemas.configuration import Replay, ReplayFilter
from schemas.events import decode_request
from schemas.headers import HEADER_ATTEMPT
from tests.support.site import TENANT, document

pytestmark = pytest.mark.retry

NOW = datetime(2026, 11, 23, tzinfo=UTC)
REPLAY = "rpl-1"
PAGE = 4
MOST_LIVES, MOST_TURNS = 100, 500
OnStored = Callable[[PublishAck | JetStreamError], None]

fates = st.sampled_from(["stored", "stored", "stored", "full", "lost", "stored, unheard", "refused"])
"""What becomes of a request."""
turns = st.sampled_from(["first", "last", "save", "kill"])
"""What happens next: one that is on its way is answered, the progress is stored, or the process dies."""


class Server:
    """Kept deliveries and stored requests, without deduplication by id."""

    def __init__(self, keys: list[int], superseded: set[int], fates_: list[str], pack: int) -> None:
        """`pack`: so many at most are kept in one message."""
        self.kept = [
            _kept(1 + index // pack, f"dlv_{key}", ends=index % pack == pack - 1 or index == len(keys) - 1)
            for index, key in enumerate(keys)
        ]
        self.superseded = {f"orders.dlv_{key}" for key in superseded}
        self.stored: Counter[str] = Counter()
        self.on_their_way: list[tuple[OnStored, PublishAck | JetStreamError]] = []
        self._fates = fates_
        self._is_dead = False

    def exceeds_share(self, _tenant: str, _count: int) -> bool:
        """Return False: nothing goes to the overflow."""
        return False

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Accept a request, unless the script refuses it."""
        if self._is_dead:
            on_stored(ServerUnavailable("killed"))
            return
        fate = self._fates.pop() if self._fates else "stored"
        is_overflow = publication.subject.startswith("oneprotect.delivery.overflow.")
        answer: PublishAck | JetStreamError = PublishAck("S", 1)
        if fate == "full" and not is_overflow:
            answer = RejectedByServer(SUBJECT_FULL, "full")
        elif fate == "refused":
            answer = RejectedByServer(10047, "no room")
        elif fate == "lost":
            answer = ServerUnavailable("no answer")
        else:
            self._store(publication)
            answer = ServerUnavailable("no answer") if fate == "stored, unheard" else answer
        self.on_their_way.append((on_stored, answer))

    async def answer(self, index: int) -> None:
        """Deliver the reply to one request."""
        if self.on_their_way:
            on_stored, answer = self.on_their_way.pop(index)
            on_stored(answer)

    def _store(self, publication: Publication) -> None:
        self.stored[f"orders.{decode_request(publication.payload).id}"] += 1

    async def kill(self) -> None:
        """End the process and drop the replies in flight."""
        self._is_dead = True
        for on_stored, _ in self.on_their_way:
            on_stored(ServerUnavailable("killed"))
        self.on_their_way.clear()

    def revive(self) -> None:
        """The next process begins."""
        self._is_dead = False

    async def find_pages(self, *, after: int, until: int) -> AsyncIterator[SupersededPage]:
        """Yield the kept deliveries in pages, as stored so far."""
        rest = [kept for kept in self.kept if after < kept.sequence <= until]
        while rest:
            last = next(
                index for index, kept in enumerate(rest, 1) if kept.is_last_in_batch and index >= min(PAGE, len(rest))
            )
            page, rest = rest[:last], rest[last:]
            later = SupersededIndex(page, REPLAY)
            for key in self.stored:
                later.record_attempt(key, 9, REPLAY)
            for key in self.superseded:
                later.record_attempt(key, 9, None)
            yield SupersededPage(page, later)

    async def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """A page once more."""
        for kept in page.deliveries:
            headers = {HEADER_ATTEMPT: str(kept.attempt)}
            yield RetainedRecord(
                kept, StoredMessage("s", kept.sequence, NOW, document("orders", delivery=kept.id), headers)
            )

    async def count(self, *, after: int = 0, until: int | None = None) -> int:
        """Return how many are kept."""
        return sum(after < kept.sequence <= (until or kept.sequence) for kept in self.kept)

    @property
    def last_sequence(self) -> int:
        """Return the last sequence of the kept deliveries."""
        return self.kept[-1].sequence if self.kept else 0

    def owes(self, until: int) -> set[str]:
        """Return deliveries kept up to `until` that are neither requested nor superseded."""
        return {kept.key for kept in self.kept if kept.sequence <= until} - self.superseded - set(self.stored)


def _kept(sequence: int, delivery: str, *, ends: bool) -> RetainedDelivery:
    return RetainedDelivery(
        id=delivery,
        tenant=TENANT,
        destination="orders",
        event_type="invoice.paid",
        code="http.5xx",
        outcome="failed",
        attempt=8,
        sequence=sequence,
        stored_at=NOW,
        is_last_in_batch=ends,
    )


async def _live(server: Server, saved: Replay, happens: list[str]) -> tuple[Replay, bool]:
    """Run the replay once; return the saved state and whether it finished."""
    run = ReplayRun(source=server, publisher=server, replay=REPLAY, row=saved, pacer=Pacer(None), window_size=3)
    going = asyncio.create_task(run.run())
    for _ in range(MOST_TURNS):
        for _ in range(5):
            await asyncio.sleep(0)
        if going.done():
            break
        match happens.pop() if happens else "first":
            case "save":
                saved = run.row
                assert server.owes(saved.cursor) == set(), "the cursor has passed something that is not stored"
            case "kill":
                await server.kill()
                going.cancel()
                await asyncio.wait({going})
                if not going.cancelled():
                    going.exception()
                return saved, False
            case turn:
                await server.answer(0 if turn == "first" else -1)
    assert going.done(), "it stands still"
    if going.exception():
        assert isinstance(going.exception(), JetStreamError)
        return run.row, False
    return run.row, going.result()


async def _replay(server: Server, happens: list[str]) -> Replay:
    row = Replay(filter=ReplayFilter(), by="test", started_at=NOW, until_sequence=server.last_sequence)
    for _ in range(MOST_LIVES):
        server.revive()
        row, has_finished = await _live(server, row, happens)
        if has_finished:
            return row
    raise AssertionError("it never comes to its end")


@settings(max_examples=300, deadline=None)
@given(
    keys=st.lists(st.integers(0, 12), max_size=14),
    superseded=st.sets(st.integers(0, 12), max_size=4),
    fates_=st.lists(fates, max_size=30),
    happens=st.lists(turns, max_size=40),
    pack=st.integers(1, 6),
)
def test_nothing_is_missed_and_nothing_done_twice(
    keys: list[int], superseded: set[int], fates_: list[str], happens: list[str], pack: int
) -> None:
    """Each delivery is requested once at the end, and an attempted one not at all."""
    server = Server(keys, superseded, fates_, pack)

    row = asyncio.run(_replay(server, happens))

    assert server.owes(server.last_sequence) == set()
    assert set(server.stored) == {kept.key for kept in server.kept} - server.superseded
    assert set(server.stored.values()) <= {1}
    assert row.replayed + row.skipped == len(server.kept)
    assert row.skipped == sum(kept.key in server.superseded for kept in server.kept)


@given(order=st.permutations(range(8)))
def test_results_in_any_order_are_released_in_order(order: list[int]) -> None:
    """An item is released when all items before it have ended."""
    line: CompletionQueue[int] = CompletionQueue()
    places: list[QueuedItem[int]] = [line.add(number) for number in range(8)]
    out: list[int] = []

    for count, number in enumerate(order, 1):
        out += line.complete(places[number])
        ended = set(order[:count])
        assert out == [n for n in range(8) if set(range(n + 1)) <= ended]

    assert len(line) == 0


@given(
    rate=st.floats(0.5, 10_000),
    delays=st.lists(st.floats(0, 3), min_size=2, max_size=60),
)
def test_a_rate_is_never_exceeded_for_long(rate: float, delays: list[float]) -> None:
    """The excess is at most a quarter of a second's share, however late the caller is."""
    pace, now = Pacer(rate), 0.0
    went: list[float] = []
    for delay_s in delays:
        now += delay_s / rate
        now += pace.reserve_turn(now)
        went.append(now)

    for start, began in enumerate(went):
        for count, at in enumerate(went[start:], 1):
            assert count <= (at - began + CATCH_UP_S) * rate + 2


def test_no_rate_causes_no_wait() -> None:
    """No rate is no wait."""
    assert {Pacer(None).reserve_turn(float(now)) for now in range(5)} == {0.0}
