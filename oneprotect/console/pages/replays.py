"""Replays: plan, start, follow and cancel."""

import functools
from typing import Final

import msgspec
from msgspec import Struct

from messaging.lease import LeaseHolder
from oneprotect.api.operations.visibility import to_public_code
from oneprotect.api.resources.replays import to_public_counts, to_public_filter
from oneprotect.api.web.request_body import decode_query
from oneprotect.console.pages.failed import FailedForm
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import PageRequest, PageResponse, redirect
from schemas.codes import Code
from schemas.configuration import KeptOutcome, Replay, ReplayFilter, ReplayState
from schemas.validation import ValidationError

MAX_RATE_PER_S: Final = 1_000_000
SHOWN: Final = 50


class ReplayForm(FailedForm, frozen=True, kw_only=True):
    """The fields of the form."""

    outcome: KeptOutcome | None = None
    rate: str | None = None
    dry_run: str | None = None

    def to_filter(self, request: PageRequest) -> ReplayFilter:
        """Return the filter of the form; without an outcome, failed and skipped deliveries match."""
        outcomes = (self.outcome,) if self.outcome else ()
        return msgspec.structs.replace(FailedForm.to_filter(self, request), outcomes=outcomes)


class ReplayQuery(Struct, frozen=True, kw_only=True):
    """The query of a replay's page. `done`: the action that led to it."""

    done: str | None = None


class ReplayProgressView(Struct, frozen=True, kw_only=True):
    """A replay as the console shows it."""

    id: str
    state: str
    row: Replay
    filter: ReplayFilter

    @property
    def done(self) -> int:
        """The number of retained deliveries that the replay has processed."""
        return self.row.replayed + self.row.skipped

    @property
    def is_over(self) -> bool:
        """True if the replay has finished or was cancelled."""
        return self.row.state is not ReplayState.RUNNING


async def show_all(request: PageRequest) -> PageResponse:
    """Show the tenant's replays, newest first."""
    rows, has_more = await request.parts.replay_service.list_page(request.tenant, limit=SHOWN)
    running = await request.parts.replay_service.find_running(request.tenant)
    return request.render(
        "replays.html",
        tenant=request.tenant,
        replays=[_view(request, replay, row, running) for replay, row in rows.items()],
        more=has_more,
    )


async def plan(request: PageRequest) -> PageResponse:
    """Show the form of a new replay; with `dry_run`, also its effect."""
    form = request.query(ReplayForm)
    chosen = form.to_filter(request)
    _parse_rate(form.rate)
    summary = await request.dry_run(chosen) if form.dry_run else None
    counts = to_public_counts(summary, public=request.is_public) if summary else []
    return request.render(
        "replay_plan.html",
        tenant=request.tenant,
        asked=form,
        preview=summary,
        counts=sorted(counts, key=lambda count: -count.count),
        codes=sorted({code.public if request.is_public else code for code in Code}),
        to_public_code=functools.partial(to_public_code, public=request.is_public),
    )


async def start(request: PageRequest) -> PageResponse:
    """Start a replay in the background."""
    fields = await request.manager_form()
    form = decode_query([(name, value) for name, value in fields.items() if value], ReplayForm)
    replay, _ = await request.parts.replay_runner.begin(
        request.tenant,
        form.to_filter(request),
        by=request.by,
        address=request.address,
        rate_per_s=_parse_rate(form.rate),
    )
    return redirect(f"{request.base}/replays/{replay}")


async def show(request: PageRequest) -> PageResponse:
    """Show a replay."""
    done = DONE.get(request.query(ReplayQuery).done or "")
    return request.render("replay.html", tenant=request.tenant, replay=await _load(request), done=done)


async def show_progress(request: PageRequest) -> PageResponse:
    """Show the part of a replay's page that changes."""
    return request.render("replay_progress.html", tenant=request.tenant, replay=await _load(request))


async def cancel(request: PageRequest) -> PageResponse:
    """Cancel a replay."""
    await request.manager_form()
    await request.parts.replay_service.cancel(request.tenant, request.id, by=request.by, address=request.address)
    return redirect(f"{request.base}/replays/{request.id}?done=cancelled")


async def _load(request: PageRequest) -> ReplayProgressView:
    row = await request.parts.replay_service.get(request.tenant, request.id)
    return _view(request, request.id, row, await request.parts.replay_service.find_running(request.tenant))


def _view(request: PageRequest, replay: str, row: Replay, running: LeaseHolder | None) -> ReplayProgressView:
    is_active = running is not None and running.replay == replay
    state = "waiting" if row.state is ReplayState.RUNNING and not is_active else row.state.value
    chosen = to_public_filter(row.filter, public=request.is_public)
    return ReplayProgressView(id=replay, state=state, row=row, filter=chosen)


def _parse_rate(text: str | None) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not 0.001 <= rate <= MAX_RATE_PER_S:
        raise ValidationError("rate", "expected deliveries per second, from 0.001 to 1000000")
    return rate
