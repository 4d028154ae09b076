"""Every way on which a received message is published again: nothing outside the allow-list of headers travels."""

import ast
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import consumers
from consumers.attempts.log import DeliveryHistory
from consumers.delivery import effects
from consumers.model.request import DeliveryAttemptRequest
from consumers.queues.ordered_queues import OrderedQueues
from consumers.queues.transfer import MessageTransfer
from consumers.replay.run import Pacer, ReplayRun
from consumers.replay.source import SupersededIndex, SupersededPage
from consumers.retention.archive import ArchiveBatcher, ArchivedDelivery, ArchivePublication, read_archive_batch
from consumers.retention.quarantine import QuarantinedMessage, QuarantineStore
from consumers.retention.retained import RetainedDelivery, RetainedRecord
from consumers.retries.reschedule import fire
from consumers.worker.disposition import quarantine_publication
from consumers.worker.load_shedding import overflow_copy
from messaging.client.headers import read_headers
from messaging.direct_get import StoredMessage
from messaging.message import Message
from messaging.publication import OnStored, Publication, PublishAck
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.configuration import Replay, ReplayFilter
from schemas.events import AttemptResult
from tests.support.site import TENANT, document

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FOREIGN = {
    "Nats-Rollup": "sub",
    "Nats-Schedule": "@at 2030-01-01T00:00:00Z",
    "Nats-Schedule-Target": "oneprotect.delivery.due.globex.orders",
    "Nats-TTL": "1s",
    "Nats-Msg-Id": "foreign",
    "Nats-Batch-Id": "foreign",
    "Nats-Expected-Last-Sequence": "1",
    "KV-Operation": "DEL",
    "X-Foo": "foreign",
    "Oneprotect-Note": "foreign",
    "Oneprotect-Reason": "foreign",
    "Oneprotect-Origin-Subject": "foreign",
    "content-type": "a/b\r\nX-Injected: foreign",
    "TraceParent": TRACE,
    "Oneprotect-Attempt": "2",
    "Oneprotect-First-Attempt-At": "2026-11-29T12:00:00+00:00",
}
PORTABLE = {
    "content-type",
    "traceparent",
    "Id-Checked",
    "Oneprotect-Attempt",
    "Oneprotect-First-Attempt-At",
    "Oneprotect-Replay",
    "Oneprotect-Replay-From",
    "Oneprotect-Since",
    "Oneprotect-Original",
}
OWN: dict[str, set[str]] = {
    "scheduled": {"Nats-Msg-Id", "Nats-Schedule", "Nats-Schedule-Target", "Oneprotect-Deferrals", "Oneprotect-Due"},
    "failed": {"Nats-Msg-Id", "Oneprotect-Outcome", "Oneprotect-Code"},
    "quarantined": {"Nats-Msg-Id", "Oneprotect-Origin-Subject", "Oneprotect-Code", "Oneprotect-Reason"},
    "delivered": set(),
    "due": {"Nats-Msg-Id", "Nats-Scheduler", "Nats-Schedule-Next", "Nats-Expected-Last-Subject-Sequence-Subject"},
}
"""The headers that a stream's publications get from the place that makes them; elsewhere, the id alone."""
STREAMS = {"due": streams.RETRIES.name, "ordered": streams.ORDERED.name}


class _Connection:
    """A connection that hears acknowledgements."""

    def send_reply(self, reply: bytes, payload: bytes) -> None:
        """Ignore it."""


nobody: Any = _Connection()


class Recorder:
    """A publisher, a connection and a lease that record publications."""

    is_held = True

    def __init__(self) -> None:
        self.sent: list[Publication] = []

    def exceeds_share(self, _tenant: str, _count: int) -> bool:
        """Return False: nothing goes to the overflow."""
        return False

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Keep it."""
        self.sent.append(publication)
        on_stored(PublishAck("S", len(self.sent)))

    async def publish(self, publication: Publication) -> PublishAck:
        """Keep it."""
        self.sent.append(publication)
        return PublishAck("S", len(self.sent))


def _message(kind: str) -> Message:
    subject = f"oneprotect.delivery.{kind}.{TENANT}.orders"
    reply = f"$JS.ACK.{STREAMS.get(kind, streams.WORK.name)}.delivery.1.7.7.0.0".encode()
    message = Message(subject, subjects.lane_of(subject), reply, document("orders", delivery="dlv_1"), b"", nobody)
    message.headers = dict(FOREIGN)
    return message


def _delivery(kind: str = "requested") -> DeliveryAttemptRequest:
    return DeliveryAttemptRequest.from_message(_message(kind), max_payload_bytes=1000)


def _record(subject: str, **headers: str) -> StoredMessage:
    return StoredMessage(subject, 7, NOW, document("orders", delivery="dlv_1"), FOREIGN | headers)


def _result(outcome: Outcome) -> AttemptResult:
    return AttemptResult(
        delivery="dlv_1",
        destination="orders",
        event_type="invoice.paid",
        attempt=2,
        outcome=outcome,
        code=Code.HTTP_5XX,
        started_at=NOW,
        duration_ms=1,
        worker="w",
        next_attempt_at=NOW + timedelta(seconds=1),
    )


async def _attempts(recorder: Recorder) -> None:
    for outcome in (Outcome.RETRY_SCHEDULED, Outcome.FAILED, Outcome.SKIPPED):
        recorder.sent += effects.after_attempt(_delivery(), _result(outcome), at=NOW, archived=True)
        recorder.sent.append(effects.suppressed(_delivery(), _result(outcome), NOW))
        recorder.sent += effects.for_recorded(_delivery(), _result(outcome), DeliveryHistory([]), archived=True)
    recorder.sent.append(effects.record(_delivery("ordered"), _result(Outcome.RETRY_SCHEDULED), NOW))
    recorder.sent.append(effects.deferral(_delivery("due"), NOW))


async def _quarantine(recorder: Recorder) -> None:
    recorder.sent += [quarantine_publication(_message(kind), Code.INTERNAL, "why") for kind in ("requested", "due")]


async def _release(recorder: Recorder) -> None:
    unsure: Any = recorder
    for kind in ("requested", "due"):
        origin = f"oneprotect.delivery.{kind}.{TENANT}.orders"
        kept = _record(subjects.quarantined(origin), **{"Oneprotect-Origin-Subject": origin})
        await QuarantineStore(unsure, unsure).release(QuarantinedMessage.from_message(kept), by="test", delivery=None)


async def _transfer(recorder: Recorder) -> None:
    unsure: Any = recorder
    for kind, target in (("overflow", "requested"), ("overflow", "ordered"), ("requested", "ordered")):
        transfer = MessageTransfer(unsure, unsure, unsure, f"oneprotect.delivery.{target}.{TENANT}.orders")
        record = _record(f"oneprotect.delivery.{kind}.{TENANT}.orders")
        await transfer.publish(streams.WORK.name, record, is_doubtful=target == "ordered")


async def _shed(recorder: Recorder) -> None:
    recorder.sent += [overflow_copy(_message(kind)) for kind in ("requested", "due")]


async def _due_in_order(recorder: Recorder) -> None:
    dependencies: Any = type("Dependencies", (), {"publisher": recorder})
    queues = OrderedQueues(dependencies)
    queues.wake = lambda *_: True  # type: ignore[method-assign]
    queues.accept(_message("due"))


async def _retry_now(recorder: Recorder) -> None:
    unsure: Any = recorder
    await fire(unsure, _record(subjects.scheduled(TENANT, "orders", "dlv_1")))


class _Source:
    """One failed delivery."""

    def __init__(self, record: StoredMessage) -> None:
        kept = RetainedDelivery.from_message(TENANT, record)
        assert kept is not None
        self._record = RetainedRecord(kept, record)

    async def find_pages(self, *, after: int, until: int) -> AsyncIterator[SupersededPage]:
        """It is on the only page."""
        assert after < until
        yield SupersededPage([self._record.delivery], SupersededIndex([self._record.delivery]))

    async def count(self, *, after: int = 0, until: int | None = None) -> int:
        """It is the only one."""
        return 1 if after < (until or 2) else 0

    async def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """There it is."""
        assert page.deliveries
        yield self._record


async def _replay(recorder: Recorder) -> None:
    row = Replay(filter=ReplayFilter(), by="test", started_at=NOW, until_sequence=9)
    source = _Source(_record(subjects.failed(TENANT, "orders", "dlv_1")))
    assert await ReplayRun(source=source, publisher=recorder, replay="rpl-1", row=row, pacer=Pacer(None)).run()


ROUTES: list[Callable[[Recorder], Awaitable[None]]] = [
    _attempts,
    _quarantine,
    _release,
    _transfer,
    _shed,
    _due_in_order,
    _retry_now,
    _replay,
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__.strip("_"))
async def test_only_listed_headers_are_copied(route: Callable[[Recorder], Awaitable[None]]) -> None:
    """A publication has the portable headers of its source message and its own headers."""
    recorder = Recorder()

    await route(recorder)

    sent = [one for one in recorder.sent if not one.subject.startswith("oneprotect.event.")]
    assert sent
    for one in sent:
        headers = one.headers or read_headers(one.block)
        own = OWN.get(one.subject.split(".")[2], {"Nats-Msg-Id"})
        assert headers.keys() <= PORTABLE | own | {"Nats-Expected-Last-Subject-Sequence"}
        assert not any("foreign" in value for name, value in headers.items() if name != "Nats-Msg-Id")
        assert headers.get("Nats-Schedule") != FOREIGN["Nats-Schedule"]
        assert headers.get("traceparent") == TRACE or one.subject.startswith("oneprotect.delivery.attempted.")


async def test_the_archive_keeps_only_listed_headers() -> None:
    """In a batch as well as for the head of an ordered queue, and when an older batch is read."""
    recorder = Recorder()
    async with ArchiveBatcher(recorder, find=_is_there) as batcher:
        for kind in ("requested", "ordered"):
            (*_, copy) = effects.after_attempt(_delivery(kind), _result(Outcome.DELIVERED), at=NOW, archived=True)
            assert isinstance(copy, ArchivePublication)
            batcher.send(copy, lambda _: None)
        batcher._flush()  # pyright: ignore[reportPrivateUsage] - the tick that the test does not wait for

    older = msgspec.msgpack.encode([ArchivedDelivery(b"{}", FOREIGN)])
    for payload in (*(one.payload for one in recorder.sent), older):
        (kept,) = read_archive_batch(StoredMessage(subjects.delivered(TENANT, "orders"), 1, NOW, payload, {}))
        assert kept.headers.keys() <= PORTABLE | {"Oneprotect-Outcome", "Oneprotect-Code"}
        assert (kept.headers["Oneprotect-Attempt"], kept.headers["traceparent"]) == ("2", TRACE)
    for one in recorder.sent:
        (written,) = msgspec.msgpack.decode(one.payload, type=list[ArchivedDelivery])
        assert isinstance(written.headers, bytes)
        assert read_headers(written.headers).keys() <= PORTABLE
        assert read_headers(one.block) == {"content-type": "application/msgpack"}


async def _is_there() -> bool:
    return True


def test_no_publication_is_missing_here() -> None:
    """A module that begins to make publications must be looked at, and given a route above."""
    root = Path(consumers.__file__).parent
    making = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith(("Publication", "DeliveryRequest"))
    }

    assert making == {
        "delivery/effects.py",
        "notifications/tenant_events.py",  # made of an operational event: none of its headers are looked at
        "queues/ordered_queues.py",
        "queues/transfer.py",
        "replay/run.py",
        "retention/archive.py",
        "retention/quarantine.py",
        "retries/reschedule.py",
        "worker/disposition.py",
        "worker/load_shedding.py",
    }
