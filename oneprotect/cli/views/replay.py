"""Replays on a terminal or as JSON: dry run, progress, and the list of replays."""

import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consumers.replay.service import ReplayService
from consumers.replay.source import DryRunSummary
from consumers.replay.store import ReplayError
from consumers.retention.retained import RetainedDelivery
from messaging.client.errors import JetStreamError
from messaging.lease import LeaseHolder
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.cli.support.context import current_user
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.output import confirm, open_console, print_notice, write_json, write_line, write_table
from schemas.configuration import Replay, ReplayFilter, ReplayState

UPDATES_PER_S: Final = 10


class ReplayCli:
    """Commands on the replays of a tenant. Every method raises `ReplayError` and `JetStreamError`."""

    def __init__(self, replayer: ReplayService, tenant: str, *, as_json: bool) -> None:
        self._replayer = replayer
        self._tenant = tenant
        self._as_json = as_json

    async def preview(self, chosen: ReplayFilter) -> None:
        """Write what a replay would send."""
        summary = DryRunSummary()
        await summary.add_pages(self._replayer.find_pages(self._tenant, chosen))
        if self._as_json:
            write_json(_summary_fields(summary, self._tenant, chosen))
        else:
            _write_summary(summary)

    async def show_all(self) -> None:
        """Write the tenant's replays, newest first."""
        replays = await self._replayer.list(self._tenant)
        running = await self._replayer.find_running(self._tenant)
        rows = [(replay, row, _state(replay, row, running)) for replay, row in reversed(replays.items())]
        if self._as_json:
            write_json([_replay_fields(replay, row) | {"state": state} for replay, row, state in rows])
            return
        write_table(
            ("replay", "state", "started at", "by", "replayed", "skipped", "filter"),
            [
                (replay, state, row.started_at, row.by, row.replayed, row.skipped, _format_filter(row.filter))
                for replay, row, state in rows
            ],
            empty="The tenant has no replays; see `oneprotect replay --help`.",
        )

    async def cancel(self, replay: str) -> None:
        """Cancel a replay."""
        row = await self._replayer.cancel(self._tenant, replay, by=current_user())
        if self._as_json:
            write_json(_replay_fields(replay, row))
        else:
            write_line(f"Replay {replay} is cancelled: {_progress_text(row)}.")

    async def run(self, chosen: ReplayFilter, *, resume: str | None, rate_per_s: float | None, ask: bool) -> None:
        """Run a replay, or resume an interrupted one. Raises `CliError` when the replay does not finish."""
        now = datetime.now(UTC)
        if resume:
            replay, row = resume, await self._replayer.resume(self._tenant, resume)
        else:
            replay, row = await self._replayer.begin(self._tenant, chosen, by=current_user())
        is_resumed = row.started_at < now
        if is_resumed and not self._as_json:
            print_notice(f"resuming replay {replay}: {_progress_text(row)} so far")
        total = await self._confirmed_total(row, ask=ask)
        row = await self._run_watched(replay, row, total, rate_per_s)
        fields = {"resumed": is_resumed} | _replay_fields(replay, row)
        if row.state is ReplayState.CANCELLED:
            raise CliError(f"cancelled by {row.cancelled_by}; {_progress_text(row)}", fields=fields)
        if self._as_json:
            write_json(fields)
        else:
            write_line(f"Replay {replay} is finished: {_progress_text(row)}.")

    async def _confirmed_total(self, row: Replay, *, ask: bool) -> int:
        """Return the number of deliveries for a user at a terminal, else 0. Raises `CliError` if the user declines."""
        if self._as_json or not sys.stderr.isatty():
            return 0
        total = await self._replayer.count_remaining(self._tenant, row)
        if ask and total and not confirm(f"Replay up to {total} deliveries?"):
            raise CliError("nothing was replayed")
        return total

    async def _run_watched(self, replay: str, row: Replay, total: int, rate_per_s: float | None) -> Replay:
        """Run the replay with a progress bar, until it ends or a signal interrupts it."""
        latest = row
        stop = stop_on_signals()
        is_shown = not self._as_json and sys.stderr.isatty()
        with _progress_bar(total + row.replayed + row.skipped, shown=is_shown) as advance:

            def on_step(step: Replay) -> None:
                nonlocal latest
                latest = step
                advance(step.replayed + step.skipped)

            running = asyncio.create_task(
                self._replayer.run(
                    self._tenant,
                    replay,
                    row,
                    by=current_user(),
                    rate_per_s=rate_per_s,
                    on_step=on_step,
                    on_wait=self._print_waiting,
                )
            )
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            is_interrupted = not running.done()
            running.cancel()
            try:
                return await running
            except asyncio.CancelledError:
                if not is_interrupted:
                    raise
                problem = "interrupted"
            except (JetStreamError, ReplayError) as error:
                problem = str(error)
        command = _resume_command(self._tenant, replay, rate_per_s)
        raise CliError(
            f"{problem}; {latest.replayed} replayed so far, and the progress is saved. Resume with: {command}",
            fields={"replay": replay, "replayed": latest.replayed, "skipped": latest.skipped, "resume": command},
        )

    def _print_waiting(self, holder: LeaseHolder) -> None:
        if not self._as_json:
            print_notice(
                f"waiting for replay {holder.replay} of {holder.by}, because one replay per tenant runs at a time; "
                "Ctrl-C cancels the wait"
            )


def _summary_fields(summary: DryRunSummary, tenant: str, chosen: ReplayFilter) -> dict[str, object]:
    return {
        "tenant": tenant,
        "filter": chosen,
        "replayable": summary.total,
        "superseded": summary.superseded,
        "by": [
            {"destination": destination, "code": code, "count": count}
            for (destination, code), count in sorted(summary.counts.items())
            if count
        ],
        "sample": [_sample_fields(kept) for kept in summary.samples],
    }


def _sample_fields(kept: RetainedDelivery) -> dict[str, object]:
    fields = ("id", "destination", "event_type", "code", "attempt", "superseded")
    return {**{field: getattr(kept, field) for field in fields}, "kept_at": kept.stored_at}


def _write_summary(summary: DryRunSummary) -> None:
    write_line(
        f"{summary.total} would be replayed; {summary.superseded} would be skipped, because they have been attempted "
        "since or are already scheduled."
    )
    if summary.total:
        counts = [(destination, code, count) for (destination, code), count in summary.counts.most_common() if count]
        write_table(("destination", "code", "deliveries"), counts, empty="")
    if summary.samples:
        write_line(f"\nThe first {len(summary.samples)}:")
        rows = [
            (
                kept.stored_at,
                kept.destination,
                kept.id,
                kept.event_type,
                kept.code,
                "skip" if kept.superseded else "replay",
            )
            for kept in summary.samples
        ]
        write_table(("retained at", "destination", "id", "event type", "code", "action"), rows, empty="")


def _progress_text(row: Replay) -> str:
    return f"{row.replayed} replayed, {row.skipped} skipped"


def _state(replay: str, row: Replay, running: LeaseHolder | None) -> str:
    is_current = row.state is not ReplayState.RUNNING or (running is not None and running.replay == replay)
    return row.state.value if is_current else "interrupted"


def _replay_fields(replay: str, row: Replay) -> dict[str, object]:
    fields = ("state", "replayed", "skipped", "by", "started_at", "ended_at", "cancelled_by", "filter")
    values: dict[str, object] = {field: getattr(row, field) for field in fields}
    return {"replay": replay} | values


def _format_filter(chosen: ReplayFilter) -> str:
    parts = [chosen.destination] if chosen.destination else []
    parts += [f"{sign} {time:%Y-%m-%d %H:%M:%S}" for sign, time in (("≥", chosen.since), ("<", chosen.until)) if time]
    parts += [*chosen.outcomes, *chosen.codes, *chosen.event_types]
    parts += chosen.ids if len(chosen.ids) < 3 else [f"{len(chosen.ids)} ids"]
    return ", ".join(parts) or "everything"


@contextlib.contextmanager
def _progress_bar(total: int, *, shown: bool) -> Generator[Callable[[int], None]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    updated_at = 0.0

    def advance(completed: int) -> None:
        nonlocal updated_at
        now = time.monotonic()
        if now - updated_at > 1 / UPDATES_PER_S:
            updated_at = now
            progress.update(bar, completed=completed)

    with Progress(*columns, console=open_console(stderr=True), disable=not shown) as progress:
        bar = progress.add_task("replaying", total=total)
        yield advance


def _resume_command(tenant: str, replay: str, rate_per_s: float | None) -> str:
    rate = ["--rate", f"{rate_per_s:g}"] if rate_per_s else []
    return shlex.join(["oneprotect", "replay", "--tenant", tenant, "--resume", replay, *rate])
