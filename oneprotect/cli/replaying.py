"""A replay as it is shown at the command line: what it would do, and how it goes."""

import asyncio
import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consumers.replay import Kept, Replayer
from oneprotect.cli.failure import Failure
from oneprotect.cli.output import console, remark, write_json, write_line, write_table
from oneprotect.cli.session import who
from oneprotect.jetstream.errors import JetStreamError
from oneprotect.wiring import stop_on_signals
from schemas.config import Replay, ReplayFilter

SAMPLES: Final = 10


class Replaying:
    """One replay of a tenant's kept deliveries."""

    def __init__(self, replayer: Replayer, tenant: str, chosen: ReplayFilter, *, as_json: bool) -> None:
        self._replayer = replayer
        self._tenant = tenant
        self._chosen = chosen
        self._as_json = as_json

    async def preview(self) -> None:
        """Show what would be replayed: counts by destination and code, and the first few."""
        counts: Counter[tuple[str, str]] = Counter()
        superseded = 0
        samples: list[Kept] = []
        async for kept in self._replayer.kept(self._tenant, self._chosen):
            counts[kept.destination, kept.code] += not kept.superseded
            superseded += kept.superseded
            if len(samples) < SAMPLES:
                samples.append(kept)
        if self._as_json:
            self._write_preview(counts, superseded, samples)
        else:
            _show_preview(counts, superseded, samples)

    def _write_preview(self, counts: Counter[tuple[str, str]], superseded: int, samples: list[Kept]) -> None:
        write_json(
            {
                "tenant": self._tenant,
                "filter": self._chosen,
                "replayable": counts.total(),
                "superseded": superseded,
                "by": [
                    {"destination": destination, "code": code, "count": count}
                    for (destination, code), count in sorted(counts.items())
                    if count
                ],
                "sample": [
                    {
                        "id": kept.id,
                        "destination": kept.destination,
                        "event_type": kept.event_type,
                        "code": kept.code,
                        "attempt": kept.progress.attempt,
                        "kept_at": kept.record.stored_at,
                        "superseded": kept.superseded,
                    }
                    for kept in samples
                ],
            }
        )

    async def run(self, *, rate_per_s: float | None, ask: bool) -> None:
        """Do it, or go on with an unfinished one. Raises `Failure` when it does not come to its end."""
        now = datetime.now(UTC)
        replay, row = await self._replayer.begin(self._tenant, self._chosen, by=who())
        is_resumed = row.started_at < now
        if is_resumed and not self._as_json:
            remark(f"going on with replay {replay}: {row.replayed} replayed, {row.skipped} left alone so far")
        total = await self._count(row)
        if ask and total and not self._as_json:
            _ask(total)
        row = await self._watched(replay, row, total, rate_per_s)
        if self._as_json:
            result = {"replay": replay, "resumed": is_resumed}
            write_json(result | {field: getattr(row, field) for field in ("state", "replayed", "skipped", "by")})
        else:
            write_line(f"Replay {replay} is finished: {row.replayed} replayed, {row.skipped} left alone.")

    async def _count(self, row: Replay) -> int:
        total = 0
        async for kept in self._replayer.kept(self._tenant, row.filter, after=row.cursor):
            if kept.record.sequence > row.until_sequence:
                break
            total += 1
        return total

    async def _watched(self, replay: str, row: Replay, total: int, rate_per_s: float | None) -> Replay:
        done = row.replayed + row.skipped
        latest = row
        stop = stop_on_signals()
        with _progress(total + done, shown=not self._as_json and sys.stderr.isatty()) as advance:

            def on_step(step: Replay) -> None:
                nonlocal latest
                latest = step
                advance(step.replayed + step.skipped)

            running = asyncio.create_task(
                self._replayer.run(self._tenant, replay, row, rate_per_s=rate_per_s, on_step=on_step)
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
            except JetStreamError as error:
                problem = str(error)
        command = _command(self._tenant, self._chosen, rate_per_s)
        raise Failure(
            f"{problem}; {latest.replayed} replayed so far, and that is kept. Go on with: {command}",
            fields={"replay": replay, "replayed": latest.replayed, "skipped": latest.skipped, "resume": command},
        )


def _show_preview(counts: Counter[tuple[str, str]], superseded: int, samples: list[Kept]) -> None:
    total = counts.total()
    write_line(f"{total} would be replayed; {superseded} would be left alone, as they were attempted again since.")
    if total:
        by_count = [(destination, code, count) for (destination, code), count in counts.most_common() if count]
        write_table(("destination", "code", "deliveries"), by_count, empty="")
    if samples:
        write_line(f"\nThe first {len(samples)}:")
        rows = [
            (kept.record.stored_at, kept.destination, kept.id, kept.event_type, kept.code, not kept.superseded)
            for kept in samples
        ]
        write_table(("kept at", "destination", "id", "event type", "code", "replay"), rows, empty="")


def _ask(total: int) -> None:
    """Let a person at a terminal decide. Raises `Failure` for anything but yes."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    sys.stderr.write(f"Replay up to {total} deliveries? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was replayed")


@contextlib.contextmanager
def _progress(total: int, *, shown: bool) -> Generator[Callable[[int], None]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), disable=not shown) as progress:
        bar = progress.add_task("replaying", total=total)
        yield lambda completed: progress.update(bar, completed=completed)


def _command(tenant: str, chosen: ReplayFilter, rate_per_s: float | None) -> str:
    """The command that does the same: times written out, as `2h` would mean another time by then."""
    words = ["oneprotect", "replay", "--tenant", tenant]
    words += ["--destination", chosen.destination] if chosen.destination else []
    for option, time in (("--since", chosen.since), ("--until", chosen.until)):
        words += [option, msgspec.to_builtins(time)] if time else []
    for option, values in (("--code", chosen.codes), ("--event-type", chosen.event_types), ("--id", chosen.ids)):
        for value in values:
            words += [option, value]
    words += ["--rate", f"{rate_per_s:g}"] if rate_per_s else []
    return shlex.join(words)
