"""A replay: failed deliveries that nothing has attempted since are requested again, once, whatever restarts."""

from typing import NamedTuple

from tests.model import jetstream as js
from tests.model.explorer import Process, Violation
from tests.model.jetstream import Lease, Message, Result, State
from tests.model.ordered import acquire, release, under_lease
from tests.model.protocol import Steps
from tests.model.protocol import check as check_delivery

REPLAY = 1


class ReplayRules(NamedTuple):
    """The rules that the promises rest on. A mutation leaves one out."""

    searches: bool = True
    """A run looks for what runs before have requested."""
    saves_cursor_last: bool = True


def start_state(faults: int) -> State:
    """Return the state after a failed delivery whose last acknowledgement was lost."""
    state = js.start_state({"consumer": 2, "replay": 2}, faults, Message("work", 1, id="1"))
    return state._replace(
        messages=tuple(m._replace(known=1) for m in state.messages),
        log=(Result(1, 1, "failed"),),
        kept=frozenset({(1, "failed")}),
    )


def run(rules: ReplayRules) -> Steps:
    """Request the delivery again, unless that has been done."""
    lease: Lease = yield acquire
    is_done: bool = yield read_cursor
    if is_done:
        yield release(lease)
        return True
    is_requested = False
    if rules.searches:
        delivery = Message("work", 1, replay=REPLAY)
        waiting, log = yield from js.search(delivery, "overflow", "work", "scheduled", "due")
        if log is None:
            yield release(lease)
            return None
        is_requested = bool(log.results) or any(m.replay == REPLAY for m in waiting)
    if not rules.saves_cursor_last:
        yield js.change("save the cursor", lambda _state: {"is_replayed": True})
    if not is_requested:
        request = Message("work", 1, 2, replay=REPLAY, id=f"1.r{REPLAY}.2")
        stored: str = yield under_lease(js.publish(request), "request", check=True)
        if stored not in ("stored", "duplicate"):
            yield release(lease)
            return None
    yield js.change("save the cursor", lambda _state: {"is_replayed": True})
    yield release(lease)
    return True


def read_cursor(state: State, _process: Process) -> js.Moves:
    """Answer whether the replay has ended."""
    yield "read the cursor", state.is_replayed, state


def check(state: State) -> None:
    """Check that a replayed delivery is requested."""
    check_delivery(state)
    requests = [m for m in (*state.messages, *state.network) if m.replay]
    if state.is_replayed and not requests and not any(r.replay for r in state.log):
        raise Violation("the cursor is behind a delivery that was not requested")
