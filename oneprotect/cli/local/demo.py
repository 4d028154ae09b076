"""`oneprotect dev --demo`: real deliveries through everything, each one judged by what its receiver saw."""

import asyncio
import statistics
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from consumers.attempts.log import follow
from messaging.delivery_requests import publish_request
from oneprotect.cli.local.stack import FLAKY, ORDERS, TENANT, UNSIGNED, DevStack, SampleDestination, stage
from oneprotect.cli.views.attempt import attempt_line
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import CONTENT_TYPE, AttemptResult, DeliveryRequested, RequestedData, encode
from schemas.ids import new_delivery_id

SENT: Final = ((ORDERS, 60), (FLAKY, 30), (UNSIGNED, 10))
DEADLINE_S: Final = 60.0

_EXPECTED: Final = {
    ORDERS.name: [(Outcome.DELIVERED, Code.HTTP_2XX)],
    FLAKY.name: [(Outcome.RETRY_SCHEDULED, Code.HTTP_5XX)] * 2 + [(Outcome.DELIVERED, Code.HTTP_2XX)],
    UNSIGNED.name: [(Outcome.RETRY_SCHEDULED, Code.SECRET_NOT_FOUND)],
}


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the deliveries to one destination went."""

    destination: str
    shows: str
    sent: int
    as_expected: int
    attempts: int
    verified: int
    unverified: int
    p50_ms: float | None
    p95_ms: float | None


async def run(*, console: Console, as_json: bool) -> int:
    """Send the deliveries, show each outcome as it happens, and a closing table. Returns 0 only if all were right."""
    with tempfile.TemporaryDirectory(prefix="oneprotect-demo-") as directory:
        async with stage(Path(directory), nats_port=None) as running:
            return await DemoRun(running, console, as_json=as_json).run()


class DemoRun:
    """One run of the demonstration."""

    def __init__(self, running: DevStack, console: Console, *, as_json: bool) -> None:
        self._running = running
        self._console = console
        self._as_json = as_json
        self._sent: dict[str, SampleDestination] = {}
        self._results: dict[str, list[AttemptResult]] = defaultdict(list)

    async def run(self) -> int:
        """Send, follow, judge. Returns the exit code."""
        async with follow(self._running.jetstream.connection, TENANT) as attempts:
            await self._send()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    async for event in attempts:
                        self._results[event.data.delivery].append(event.data)
                        self._show(event.data)
                        if all(self._has_ended(delivery) for delivery in self._sent):
                            break
            except TimeoutError:
                self._console.print(f"[red]Not all deliveries ended within {DEADLINE_S:g} s.[/]")
        verdicts = [self._judge(sample) for sample, _ in SENT]
        right = all(verdict.as_expected == verdict.sent and not verdict.unverified for verdict in verdicts)
        self._close(verdicts, right=right)
        return 0 if right else 1

    async def _send(self) -> None:
        requests: list[tuple[str, bytes, SampleDestination]] = []
        for sample, count in SENT:
            for number in range(count):
                document = _document(sample, number)
                requests.append((document.id, encode(document), sample))
                self._sent[document.id] = sample
        publisher = self._running.jetstream.publisher
        async with asyncio.TaskGroup() as tasks:
            for delivery, document_bytes, sample in requests:
                headers = {
                    subjects.HEADER_MSG_ID: subjects.msg_id(TENANT, sample.name, delivery),
                    "content-type": CONTENT_TYPE,
                }
                tasks.create_task(publish_request(publisher, TENANT, sample.name, document_bytes, headers))

    def _has_ended(self, delivery: str) -> bool:
        results = self._results[delivery]
        if not results:
            return False
        return results[-1].outcome is not Outcome.RETRY_SCHEDULED or not self._sent[delivery].has_secret

    def _judge(self, sample: SampleDestination) -> DemoResult:
        sent = [delivery for delivery, to in self._sent.items() if to is sample]
        receipts = [receipt for receipt in self._running.receiver.received if receipt.path == sample.path]
        requests = {delivery: [r for r in receipts if r.webhook_id == delivery] for delivery in sent}
        attempts = [result for delivery in sent for result in self._results[delivery]]
        durations = sorted(result.duration_ms for result in attempts if result.http_status)
        return DemoResult(
            destination=sample.name,
            shows=sample.shows,
            sent=len(sent),
            as_expected=sum(self._is_right(sample, delivery, len(requests[delivery])) for delivery in sent),
            attempts=len(attempts),
            verified=sum(receipt.verified for receipt in receipts),
            unverified=sum(not receipt.verified for receipt in receipts),
            p50_ms=statistics.median(durations) if durations else None,
            p95_ms=durations[int(len(durations) * 0.95)] if durations else None,
        )

    def _is_right(self, sample: SampleDestination, delivery: str, requests: int) -> bool:
        results = self._results[delivery]
        posts = len(_EXPECTED[sample.name]) if sample.has_secret else 0
        return (
            [(result.outcome, result.code) for result in results] == _EXPECTED[sample.name]
            and requests == posts
            and (not posts or [result.attempt for result in results] == list(range(1, posts + 1)))
        )

    def _show(self, result: AttemptResult) -> None:
        if self._as_json:
            self._console.out(msgspec.json.encode(result).decode(), highlight=False)
        else:
            self._console.print(attempt_line(result), highlight=False, soft_wrap=True)

    def _close(self, verdicts: list[DemoResult], *, right: bool) -> None:
        if self._as_json:
            summary: dict[str, Any] = {"ok": right, "destinations": verdicts}
            self._console.out(msgspec.json.encode(summary).decode(), highlight=False)
            return
        table = Table(box=box.SIMPLE_HEAD, padding=0)
        table.add_column("destination", no_wrap=True)
        table.add_column("shows", no_wrap=True)
        for heading in ("sent", "right", "attempts", "verified", "p50/p95 ms"):
            table.add_column(heading, justify="right", no_wrap=True)
        for verdict in verdicts:
            table.add_row(
                verdict.destination,
                verdict.shows,
                str(verdict.sent),
                str(verdict.as_expected),
                str(verdict.attempts),
                f"{verdict.verified}/{verdict.verified + verdict.unverified}",
                f"{verdict.p50_ms:.1f}/{verdict.p95_ms:.1f}" if verdict.p50_ms and verdict.p95_ms else "",
            )
        self._console.print(table)
        total = sum(verdict.sent for verdict in verdicts)
        self._console.print(
            f"[green]All {total} deliveries ended as they should.[/] Verified by the standardwebhooks package."
            if right
            else "[red]Not every delivery ended as it should.[/]",
            soft_wrap=True,
        )


def _document(sample: SampleDestination, number: int) -> DeliveryRequested:
    return DeliveryRequested(
        specversion="1.0",
        id=new_delivery_id(),
        source="/oneprotect/demo",
        type="oneprotect.delivery.requested.v1",
        time=datetime.now(UTC),
        tenant=TENANT,
        data=RequestedData(
            destination=sample.name,
            event_type="invoice.paid",
            payload=msgspec.Raw(msgspec.json.encode({"invoice": number, "total": 100 + number, "currency": "EUR"})),
        ),
    )
