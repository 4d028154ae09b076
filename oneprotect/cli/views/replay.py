"""A replay as it is shown at the command line: what it would do, how it goes, and which there are."""

import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import UTC, datetime
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consumers.replay.service import ReplayService
from consumers.replay.store import ReplayError
from messaging.client.errors import JetStreamError
from messaging.lease import LeaseHolder
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.cli.support.context import current_user
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.output import console, print_notice, write_json, write_line, write_table
from oneprotect.cli.support.prompt import is_yes
from oneprotect.cli.views.replay_dry_run import ShownPreview
from schemas.configuration import Replay, ReplayFilter, ReplayState

SHOWN_PER_S: Final = 10


class ReplayCli:
    """The replays of a tenant."""

    def __init__(self, replayer: ReplayService, tenant: str, *, as_json: bool) -> None:
        self._replayer = replayer
        self._tenant = tenant
        self._as_json = as_json

    async def preview(self, chosen: ReplayFilter) -> None:
        """Show what would be replayed."""
        preview = ShownPreview()
        await preview.add_pages(self._replayer.find_pages(self._tenant, chosen))
        if self._as_json:
            preview.write(self._tenant, chosen)
        else:
            preview.show()

    async def show_all(self) -> None:
        """Show which replays there are, the newest first."""
        replays = await self._replayer.list(self._tenant)
        running = await self._replayer.find_running(self._tenant)
        rows = [(replay, row, _state(replay, row, running)) for replay, row in reversed(replays.items())]
        if self._as_json:
            write_json([_as_json(replay, row) | {"state": state} for replay, row, state in rows])
            return
        write_table(
            ("replay", "state", "started at", "by", "replayed", "left alone", "of"),
            [
                (replay, state, row.started_at, row.by, row.replayed, row.skipped, _words(row.filter))
                for replay, row, state in rows
            ],
            empty="The tenant has no replays; see `oneprotect replay --help`.",
        )

    async def cancel(self, replay: str) -> None:
        """Stop one. Raises `CliError`."""
        async with _told():
            row = await self._replayer.cancel(self._tenant, replay, by=current_user())
            if self._as_json:
                write_json(_as_json(replay, row))
            else:
                write_line(f"Replay {replay} is cancelled: {_so_far(row)}.")

    async def run(self, chosen: ReplayFilter, *, resume: str | None, rate_per_s: float | None, ask: bool) -> None:
        """Do one, or go on with an unfinished one. Raises `CliError` when it does not come to its end."""
        now = datetime.now(UTC)
        async with _told():
            if resume:
                replay, row = resume, await self._replayer.resume(self._tenant, resume)
            else:
                replay, row = await self._replayer.begin(self._tenant, chosen, by=current_user())
        is_resumed = row.started_at < now
        if is_resumed and not self._as_json:
            print_notice(f"going on with replay {replay}: {_so_far(row)} so far")
        total = await self._total(row, ask=ask)
        row = await self._watched(replay, row, total, rate_per_s)
        if row.state is ReplayState.CANCELLED:
            raise CliError(
                f"cancelled by {row.cancelled_by}; {_so_far(row)}",
                fields={"resumed": is_resumed} | _as_json(replay, row),
            )
        if self._as_json:
            write_json({"resumed": is_resumed} | _as_json(replay, row))
        else:
            write_line(f"Replay {replay} is finished: {_so_far(row)}.")

    async def _total(self, row: Replay, *, ask: bool) -> int:
        """How many there are, where somebody is there to be told and asked. Raises `CliError` when they say no."""
        if self._as_json or not sys.stderr.isatty():
            return 0
        total = await self._replayer.count_remaining(self._tenant, row)
        if ask and total and not is_yes(f"Replay up to {total} deliveries?"):
            raise CliError("nothing was replayed")
        return total

    async def _watched(self, replay: str, row: Replay, total: int, rate_per_s: float | None) -> Replay:
        latest = row
        stop = stop_on_signals()
        is_shown = not self._as_json and sys.stderr.isatty()
        with _progress(total + row.replayed + row.skipped, shown=is_shown) as advance:

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
                    on_wait=self._say_waiting,
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
        command = _command(self._tenant, replay, rate_per_s)
        raise CliError(
            f"{problem}; {latest.replayed} replayed so far, and that is kept. Go on with: {command}",
            fields={"replay": replay, "replayed": latest.replayed, "skipped": latest.skipped, "resume": command},
        )

    def _say_waiting(self, holder: LeaseHolder) -> None:
        if not self._as_json:
            print_notice(
                f"waiting for replay {holder.replay} of {holder.by}: one of a tenant runs at a time; Ctrl-C gives up"
            )


@contextlib.asynccontextmanager
async def _told() -> AsyncGenerator[None]:
    """Say what is wrong with a replay as a `CliError`."""
    problem = ""
    try:
        yield
    except ReplayError as error:
        problem = str(error)
    if problem:
        raise CliError(problem)


def _so_far(row: Replay) -> str:
    return f"{row.replayed} replayed, {row.skipped} left alone"


def _state(replay: str, row: Replay, running: LeaseHolder | None) -> str:
    is_running = row.state is not ReplayState.RUNNING or (running is not None and running.replay == replay)
    return row.state.value if is_running else "interrupted"


def _as_json(replay: str, row: Replay) -> dict[str, object]:
    fields = ("state", "replayed", "skipped", "by", "started_at", "ended_at", "cancelled_by", "filter")
    values: dict[str, object] = {field: getattr(row, field) for field in fields}
    return {"replay": replay} | values


def _words(chosen: ReplayFilter) -> str:
    """The filter, in few words."""
    words = [chosen.destination] if chosen.destination else []
    words += [f"{sign} {time:%Y-%m-%d %H:%M:%S}" for sign, time in (("≥", chosen.since), ("<", chosen.until)) if time]
    words += [*chosen.outcomes, *chosen.codes, *chosen.event_types]
    words += chosen.ids if len(chosen.ids) < 3 else [f"{len(chosen.ids)} ids"]
    return ", ".join(words) or "everything"


@contextlib.contextmanager
def _progress(total: int, *, shown: bool) -> Generator[Callable[[int], None]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown_at = 0.0

    def advance(completed: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at > 1 / SHOWN_PER_S:
            shown_at = now
            progress.update(bar, completed=completed)

    with Progress(*columns, console=console(stderr=True), disable=not shown) as progress:
        bar = progress.add_task("replaying", total=total)
        yield advance


def _command(tenant: str, replay: str, rate_per_s: float | None) -> str:
    """The command that goes on with it."""
    rate = ["--rate", f"{rate_per_s:g}"] if rate_per_s else []
    return shlex.join(["oneprotect", "replay", "--tenant", tenant, "--resume", replay, *rate])
