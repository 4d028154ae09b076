"""The ledger of the ids that producers name: a claim first, then the delivery, then the mark that it is stored."""

from collections.abc import Generator, Iterable
from typing import Any

from tests.model import jetstream as js
from tests.model.explorer import Process, Step
from tests.model.jetstream import Claim, Message, Moves, State


def api() -> Generator[Step, Any, bool]:
    """Accept the request with the producer's id 1. The producer repeats it until it is acknowledged."""
    claim: Claim
    claim, is_new = yield create_claim(1)
    own: Claim | None = claim
    is_stored = claim.is_stored
    if not is_new and not is_stored:
        is_stored, log = yield from _find(claim)
        if is_stored and not claim.by and not (yield mark(claim)):
            return False
        if not is_stored:
            if log is None or not claim.is_old:
                return False  # "try again": the first request may be in progress
            own = yield take_over(claim)
    if own is None:
        return False
    if not is_stored and not (yield from _store(own, since=not is_new)):
        return False
    yield js.accept(1)
    return True


def _store(own: Claim, *, since: bool) -> Generator[Step, Any, bool]:
    """Publish under the usual id, and then under one that names the claim, if the server knows another message's."""
    stored: str = "duplicate"
    for name in ("1", f"1.c{own.revision}"):
        stored = yield while_young(own, js.publish(Message("work", 1, since=since, id=name, claim=own.revision)))
        if stored != "duplicate":
            break
        is_found, _ = yield from _find(own)
        if is_found:
            is_marked: bool = yield mark(own)
            return is_marked
    if stored == "stored":
        yield mark(own)
    return stored == "stored"


def _find(claim: Claim) -> Generator[Step, Any, tuple[bool, Any]]:
    """Return whether the API's request is stored, and the log of its delivery."""
    waiting, log = yield from js.search(Message("work", 1), "overflow", "work", "scheduled", "due")
    # A publisher's message is not the API's request, and what came late may be superseded.
    covered = [m for m in waiting if (m.is_checked or claim.by) and m.claim in (0, claim.revision)]
    return bool(covered or (log and log.results)), log


def publisher(*, is_checked: bool = False) -> Generator[Step, Any, bool]:
    """Publish the delivery 1 to the work stream, without the API."""
    stored = "unknown"
    while stored == "unknown":
        stored = yield js.publish(Message("work", 1, id="1", is_checked=is_checked))
    yield js.accept(1)
    return True


def claim_message(
    message: Message, *, renews: bool, looks_in_retries: bool, looks_for_requests: bool
) -> Generator[Step, Any, bool]:
    """Claim the id of a message that a trusted publisher stored. Return whether it may be handled."""
    claim: Claim
    claim, is_new = yield create_claim(message.delivery, message.number)
    is_mine = claim.by == message.number
    if is_new or (is_mine and not (claim.is_old and renews)):
        return True
    if not is_mine:
        requests = ("overflow", "work") if looks_for_requests and not claim.by else ()
        found, log = yield from js.search(message, *requests, *(("scheduled", "due") if looks_in_retries else ()))
        own = [m for m in found if m.is_checked and m.claim in (0, claim.revision)]
        waiting = own + [m for m in found if m.stream in ("scheduled", "due")]
        if waiting or claim.is_stored or (log and log.results):
            if not (claim.by or claim.is_stored or (yield mark(claim))):
                return False
            yield js.acknowledge(message, late=False)
            return False
        if log is None or not claim.is_old:
            return False  # the message comes again
    taken: Claim | None = yield take_over(claim, message.number)
    return taken is not None


def create_claim(delivery: int, by: int = 0) -> Step:
    def step(state: State, _process: Process) -> Moves:
        if state.claims:
            yield "the id is claimed already", (state.claims[0], False), state
            return
        claim = Claim(delivery, 1, by)
        yield "claim the id", (claim, True), state._replace(claims=(claim,))

    return step


def take_over(claim: Claim, by: int = 0) -> Step:
    def step(state: State, _process: Process) -> Moves:
        if state.claims != (claim,):
            yield "take over the claim: conflict", None, state
            return
        taken = Claim(claim.delivery, claim.revision % 3 + 1, by)
        yield "take over the claim", taken, state._replace(claims=(taken,))

    return step


def while_young(claim: Claim, request: Step) -> Step:
    def step(state: State, process: Process) -> Moves:
        if state.claims[0] != claim:
            yield "do not publish: the claim is old", "late", state
        else:
            for text, answer, after in request(state, process):
                yield text, answer, _in_time(state, after)

    return step


def _in_time(before: State, after: State) -> State:
    """Return the state `after` in which what was stored since `before` is in time."""
    return after._replace(messages=tuple(m._replace(claim=0) if m.number > before.used else m for m in after.messages))


def arrive(state: State) -> Iterable[tuple[str, State]]:
    """Return the state after each stalled publication arrives: late, if its claim is old or another one's."""
    for text, after in js.arrive(state, 99):
        stored = [m for m in after.messages if m.number > state.used]
        is_late = all(m.claim and (state.claims[0].is_old or m.claim != state.claims[0].revision) for m in stored)
        yield text, after if is_late else _in_time(state, after)


def mark(claim: Claim) -> Step:
    """Note that the delivery is stored. Answers whether the claim is still the same."""

    def step(state: State, _process: Process) -> Moves:
        is_same = state.claims == (claim,)
        marked = state._replace(claims=(claim._replace(is_stored=True),)) if is_same else state
        yield "mark the claim" if is_same else "mark the claim: conflict", is_same, marked

    return step


def look_at_claim(message: Message) -> Step:
    """Keep others from taking over the claim of what is stored late. Answers whether it is still the message's."""

    def step(state: State, _process: Process) -> Moves:
        claim = state.claims[0]
        if claim.revision != message.claim or claim.by:
            yield "the claim was taken over", False, state
        else:
            yield "mark the claim", True, state._replace(claims=(claim._replace(is_stored=True),))

    return step


def grow_old(state: State) -> Iterable[tuple[str, State]]:
    """Return the state in which the claim is old. Who wrote it is done by then, dead, or paused as a fault."""
    if not state.claims or state.claims[0].is_old or state.claims[0].is_stored:
        return
    claim = state.claims[0]
    old = state._replace(claims=(claim._replace(is_old=True),))
    if not any(_relies(process, claim) for process in state.processes):
        yield "the claim grows old", old
    elif state.faults:
        messages = tuple(
            m._replace(handed=(m.handed + 1) % js.HANDED) if m.number == claim.by else m for m in state.messages
        )
        yield "its process is paused, the claim grows old", old._replace(messages=messages).without_fault()


def _relies(process: Process, claim: Claim) -> bool:
    """Return whether a process has written `claim`, or has found it to be its message's, and acts on it."""
    first = process.answers[0] if process.answers else None
    is_its_own = isinstance(first, Message) and first.number == claim.by
    return any(a in (claim, (claim, True)) or (is_its_own and a == (claim, False)) for a in process.answers)
