"""`oneprotect dev --demo`: deliveries through the local installation, compared with what the receiver saw."""

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
from oneprotect.cli.local.stack import FLAKY, ORDERS, TENANT, UNSIGNED, DevStack, SampleDestination, start_stack
from oneprotect.cli.views.attempts import format_attempt
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import CONTENT_TYPE, AttemptResult, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id

SENT: Final = ((ORDERS, 60), (FLAKY, 30), (UNSIGNED, 10))
DEADLINE_S: Final = 60.0

_EXPECTED: Final = {
    ORDERS.name: [(Outcome.DELIVERED, Code.HTTP_2XX)],
    FLAKY.name: [(Outcome.RETRY_SCHEDULED, Code.HTTP_5XX)] * 2 + [(Outcome.DELIVERED, Code.HTTP_2XX)],
    UNSIGNED.name: [(Outcome.RETRY_SCHEDULED, Code.SECRET_NOT_FOUND)],
}


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of the deliveries to one destination."""

    destination: str
    shows: str
    sent: int
    as_expected: int
    attempts: int
    verified: int
    unverified: int
    p50_ms: float | None
    p95_ms: float | None


async def run_demo(*, console: Console, as_json: bool) -> int:
    """Send the deliveries, and print each attempt and a summary. Returns exit code 0 if all are as expected."""
    with tempfile.TemporaryDirectory(prefix="oneprotect-demo-") as directory:
        async with start_stack(Path(directory), nats_port=None) as stack:
            return await DemoRun(stack, console, as_json=as_json).run()


class DemoRun:
    """A run of the demo."""

    def __init__(self, stack: DevStack, console: Console, *, as_json: bool) -> None:
        self._stack = stack
        self._console = console
        self._as_json = as_json
        self._sent: dict[str, SampleDestination] = {}
        self._results: dict[str, list[AttemptResult]] = defaultdict(list)

    async def run(self) -> int:
        """Send the deliveries, follow their attempts, and compare. Returns the exit code."""
        async with follow(self._stack.jetstream.connection, TENANT) as attempts:
            await self._send()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    async for event in attempts:
                        self._results[event.data.delivery].append(event.data)
                        self._print_attempt(event.data)
                        if all(self._has_ended(delivery) for delivery in self._sent):
                            break
            except TimeoutError:
                self._console.print(f"[red]Some deliveries did not end within {DEADLINE_S:g} s.[/]")
        results = [self._summarize(sample) for sample, _ in SENT]
        is_right = all(result.as_expected == result.sent and not result.unverified for result in results)
        self._print_summary(results, is_right=is_right)
        return 0 if is_right else 1

    async def _send(self) -> None:
        requests: list[tuple[str, bytes, SampleDestination]] = []
        for sample, count in SENT:
            for number in range(count):
                request = _build_request(sample, number)
                requests.append((request.id, encode(request), sample))
                self._sent[request.id] = sample
        publisher = self._stack.jetstream.publisher
        async with asyncio.TaskGroup() as tasks:
            for delivery, body, sample in requests:
                headers = {
                    HEADER_MSG_ID: subjects.msg_id(TENANT, sample.name, delivery),
                    "content-type": CONTENT_TYPE,
                }
                tasks.create_task(publish_request(publisher, TENANT, sample.name, body, headers))

    def _has_ended(self, delivery: str) -> bool:
        results = self._results[delivery]
        if not results:
            return False
        return results[-1].outcome is not Outcome.RETRY_SCHEDULED or not self._sent[delivery].has_secret

    def _summarize(self, sample: SampleDestination) -> DemoResult:
        sent = [delivery for delivery, to in self._sent.items() if to is sample]
        receipts = [receipt for receipt in self._stack.receiver.received if receipt.path == sample.path]
        requests = {delivery: [r for r in receipts if r.webhook_id == delivery] for delivery in sent}
        attempts = [result for delivery in sent for result in self._results[delivery]]
        durations = sorted(result.duration_ms for result in attempts if result.http_status)
        return DemoResult(
            destination=sample.name,
            shows=sample.shows,
            sent=len(sent),
            as_expected=sum(self._is_as_expected(sample, delivery, len(requests[delivery])) for delivery in sent),
            attempts=len(attempts),
            verified=sum(receipt.verified for receipt in receipts),
            unverified=sum(not receipt.verified for receipt in receipts),
            p50_ms=statistics.median(durations) if durations else None,
            p95_ms=durations[int(len(durations) * 0.95)] if durations else None,
        )

    def _is_as_expected(self, sample: SampleDestination, delivery: str, requests: int) -> bool:
        results = self._results[delivery]
        posts = len(_EXPECTED[sample.name]) if sample.has_secret else 0
        return (
            [(result.outcome, result.code) for result in results] == _EXPECTED[sample.name]
            and requests == posts
            and (not posts or [result.attempt for result in results] == list(range(1, posts + 1)))
        )

    def _print_attempt(self, result: AttemptResult) -> None:
        if self._as_json:
            self._console.out(msgspec.json.encode(result).decode(), highlight=False)
        else:
            self._console.print(format_attempt(result), highlight=False, soft_wrap=True)

    def _print_summary(self, results: list[DemoResult], *, is_right: bool) -> None:
        if self._as_json:
            summary: dict[str, Any] = {"ok": is_right, "destinations": results}
            self._console.out(msgspec.json.encode(summary).decode(), highlight=False)
            return
        table = Table(box=box.SIMPLE_HEAD, padding=0)
        table.add_column("destination", no_wrap=True)
        table.add_column("shows", no_wrap=True)
        for heading in ("sent", "expected", "attempts", "verified", "p50/p95 ms"):
            table.add_column(heading, justify="right", no_wrap=True)
        for result in results:
            table.add_row(
                result.destination,
                result.shows,
                str(result.sent),
                str(result.as_expected),
                str(result.attempts),
                f"{result.verified}/{result.verified + result.unverified}",
                f"{result.p50_ms:.1f}/{result.p95_ms:.1f}" if result.p50_ms and result.p95_ms else "",
            )
        self._console.print(table)
        total = sum(result.sent for result in results)
        self._console.print(
            f"[green]All {total} deliveries ended as expected.[/] The standardwebhooks package verified the signatures."
            if is_right
            else "[red]Some deliveries did not end as expected.[/] The table shows which.",
            soft_wrap=True,
        )


def _build_request(sample: SampleDestination, number: int) -> DeliveryRequested:
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
