"""Replays: what one would do, starting it, how it goes, cancelling it."""

import asyncio
import functools
from typing import Final

import msgspec
from msgspec import Struct

from consumers.replay.source import DryRunSummary
from messaging.lease import LeaseHolder
from oneprotect.api.web import request_body
from oneprotect.api.web.problems import Problem
from oneprotect.console.pages.failed import FailedForm, told_code
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import FORM_TOKEN, PageRequest, PageResponse, redirect
from schemas.codes import Code
from schemas.configuration import KeptOutcome, Replay, ReplayFilter, ReplayState
from schemas.validation import ValidationError

DRY_RUN_TIMEOUT_S: Final = 25.0
MAX_RATE_PER_S: Final = 1_000_000
SHOWN: Final = 50


class ReplayForm(FailedForm, frozen=True, kw_only=True):
    """What the form says, and how fast to go."""

    outcome: KeptOutcome | None = None
    rate: str | None = None
    dry_run: str | None = None

    def chosen(self, visit: PageRequest) -> ReplayFilter:
        """The kept deliveries that are meant: those that failed or were skipped, unless told otherwise."""
        return msgspec.structs.replace(FailedForm.chosen(self, visit), outcomes=(self.outcome,) if self.outcome else ())


class ReplaysQuery(Struct, frozen=True, kw_only=True):
    """What was done before."""

    done: str | None = None


class ReplayProgressView(Struct, frozen=True, kw_only=True):
    """A replay as it is shown."""

    id: str
    state: str
    row: Replay
    filter: ReplayFilter

    @property
    def done(self) -> int:
        """How many kept deliveries it has come past."""
        return self.row.replayed + self.row.skipped

    @property
    def is_over(self) -> bool:
        """Whether nothing more will change."""
        return self.row.state is not ReplayState.RUNNING


async def index(visit: PageRequest) -> PageResponse:
    """The tenant's, the newest first."""
    rows = await visit.parts.api.replayer.list(visit.tenant)
    running = await visit.parts.api.replayer.find_running(visit.tenant)
    newest = list(reversed(rows.items()))[:SHOWN]
    return visit.page(
        "replays.html",
        tenant=visit.tenant,
        replays=[_going(visit, replay, row, running) for replay, row in newest],
        more=len(rows) > SHOWN,
    )


async def plan(visit: PageRequest) -> PageResponse:
    """The form; with `dry_run`, what it would do."""
    asked = visit.query(ReplayForm)
    chosen = asked.chosen(visit)
    _rate(asked.rate)
    preview = None
    if asked.dry_run:
        preview = DryRunSummary()
        try:
            async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
                await preview.add_pages(visit.parts.api.replayer.find_pages(visit.tenant, chosen))
        except TimeoutError:
            raise Problem(
                503,
                "too-many",
                "Counting took too long. Name a destination or a time, or use `oneprotect replay --dry-run`.",
            ) from None
    return visit.page(
        "replay_plan.html",
        tenant=visit.tenant,
        asked=asked,
        preview=preview,
        counts=_counts(visit, preview),
        codes=sorted({code.public if visit.is_public else code for code in Code}),
        told_code=functools.partial(told_code, public=visit.is_public),
    )


async def start(visit: PageRequest) -> PageResponse:
    """Begin it, in the background."""
    fields = await visit.keepers_form()
    asked = _plan_of({name: value for name, value in fields.items() if name != FORM_TOKEN and value})
    replay, _ = await visit.parts.api.replays.begin(
        visit.tenant,
        asked.chosen(visit),
        by=visit.principal.id,
        address=visit.address,
        rate_per_s=_rate(asked.rate),
    )
    return redirect(f"{visit.base}/replays/{replay}")


async def show(visit: PageRequest) -> PageResponse:
    """One of them."""
    done = DONE.get(visit.query(ReplaysQuery).done or "")
    return visit.page("replay.html", tenant=visit.tenant, replay=await _find(visit), done=done)


async def progress(visit: PageRequest) -> PageResponse:
    """The part of that page that changes."""
    return visit.page("replay_progress.html", tenant=visit.tenant, replay=await _find(visit))


async def cancel(visit: PageRequest) -> PageResponse:
    """Stop it."""
    await visit.keepers_form()
    await visit.parts.api.replayer.cancel(visit.tenant, visit.id, by=visit.principal.id, address=visit.address)
    return redirect(f"{visit.base}/replays/{visit.id}?done=cancelled")


async def _find(visit: PageRequest) -> ReplayProgressView:
    row = await visit.parts.api.replayer.get(visit.tenant, visit.id)
    return _going(visit, visit.id, row, await visit.parts.api.replayer.find_running(visit.tenant))


def _going(visit: PageRequest, replay: str, row: Replay, running: LeaseHolder | None) -> ReplayProgressView:
    works = running is not None and running.replay == replay
    state = "waiting" if row.state is ReplayState.RUNNING and not works else row.state.value
    codes = tuple(sorted({told_code(code, public=visit.is_public) for code in row.filter.codes}))
    chosen = msgspec.structs.replace(row.filter, codes=codes)
    return ReplayProgressView(id=replay, state=state, row=row, filter=chosen)


def _counts(visit: PageRequest, preview: DryRunSummary | None) -> list[tuple[str, str, int]]:
    counts: dict[tuple[str, str], int] = {}
    for (destination, code), number in preview.counts.items() if preview else ():
        key = destination, told_code(code, public=visit.is_public)
        counts[key] = counts.get(key, 0) + number
    return sorted(((*key, number) for key, number in counts.items() if number), key=lambda row: -row[2])


def _plan_of(fields: dict[str, str]) -> ReplayForm:
    return request_body.query(fields.items(), ReplayForm)


def _rate(text: str | None) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not 0.001 <= rate <= MAX_RATE_PER_S:
        raise ValidationError("rate", "expected deliveries a second, from 0.001 to 1000000")
    return rate
