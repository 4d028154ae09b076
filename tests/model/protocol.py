"""The protocol of a delivery, as programs: each `yield` is one step, and a process can end between any two."""

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

from tests.model import jetstream as js
from tests.model.explorer import ENDED, Step, Violation
from tests.model.jetstream import FINAL, Message, Result, State
from tests.model.ledger import arrive, claim_message, grow_old, look_at_claim

Steps = Generator[Step, Any, Any]

MAX_WAITS = 2
"""Waits of an attempt for its secret, where secrets may be missing."""


class Rules(NamedTuple):
    """The rules that the promises rest on. A mutation leaves one out."""

    looks_on_redelivery: bool = True
    inherits_doubt: bool = True
    """The next attempt of a message that asked for a look asks for one, too."""
    reads_leader: bool = True
    is_monotonic: bool = True
    """Nothing older replaces anything newer."""
    looks_twice: bool = True
    """Once an attempt is found to be recorded, the schedule of the next one is looked for again."""
    keeps_final: bool = True
    """Before a stale message is acknowledged, the payload is kept with the final outcome found."""
    checks_term: bool = True
    settles_in_term: bool = True
    """After its term a consumer records its result, and schedules and acknowledges nothing."""
    distrusts_counts: bool = True
    renews_claims: bool = True
    looks_in_retries: bool = True
    """Before a claim is taken over, waiting retries are looked for."""
    looks_for_requests: bool = True
    """Before a claim of the API is taken over, its request is looked for."""
    looks_at_late_ones: bool = True
    """What the API has stored late is not sent if its claim was taken over."""
    waits_for_outages: bool = True
    """A read without an answer is no crash of the handler."""
    fires_overdue: bool = True
    """Consumers fire schedules that the server has not fired."""
    tells_waits_apart: bool = True
    """The record of an earlier wait for the secret is not the result of this attempt."""
    defers: bool = False
    """The circuit breaker may be open. This is no rule, but makes the model larger."""
    misses_secrets: bool = False
    """The secret may be missing twice. This is no rule either."""


def consumer(rules: Rules, attempts: int) -> Steps:
    """Handle one message of the work stream or a due retry."""
    message: Message = yield js.pull("work", "due")
    if is_in_doubt(message) and rules.looks_on_redelivery and (yield from reconcile(rules, message)):
        return
    if not message.is_checked and message.attempt == 1 and not message.waits:
        is_mine: bool = yield from claim_message(
            message,
            renews=rules.renews_claims,
            looks_in_retries=rules.looks_in_retries,
            looks_for_requests=rules.looks_for_requests,
        )
        if not is_mine:
            return
    if message.claim and rules.looks_at_late_ones:
        is_own: bool = yield look_at_claim(message)
        if not is_own:
            yield js.acknowledge(message, late=False)
            return
    if (yield from put_off(rules, message)):
        return
    yield from send(rules, message, attempts)


def put_off(rules: Rules, message: Message) -> Generator[Step, Any, bool]:
    """Schedule the attempt again if the circuit breaker is open or the secret is missing. Return whether it was."""
    if rules.defers and not message.waits:
        breaker: str = yield js.choose("a closed circuit breaker", "an open circuit breaker")
        if breaker == "an open circuit breaker":
            yield from schedule(rules, message, message.attempt, message.waits + 1)
            return True
    if rules.misses_secrets and message.waits < MAX_WAITS:
        secret: str = yield js.choose("a secret", "no secret")
        if secret == "no secret":
            wait = Result(message.delivery, message.attempt, "wait", waits=message.waits)
            yield from record(message, wait, f".w{message.waits}")
            yield from schedule(rules, message, message.attempt, message.waits + 1)
            return True
    return False


def is_in_doubt(message: Message) -> bool:
    """Return whether another consumer may have handled the message."""
    return message.known > 1 or message.since


def send(rules: Rules, message: Message, attempts: int) -> Steps:
    """Send, record the result, and store what follows from the one on record."""
    answer: str = yield js.send(message, checks_term=rules.checks_term)
    if answer == "late":
        return
    outcome = answer if answer == "delivered" else "failed" if message.attempt == attempts else "retry"
    result = Result(message.delivery, message.attempt, outcome)
    recorded = yield from record(message, result)
    if recorded.author != (message.number, message.handed) and outcome == "delivered" != recorded.outcome:
        recorded = yield from record(message, result, ".d")  # another consumer has recorded another outcome
    if recorded.outcome in FINAL:
        yield js.keep(message.delivery, recorded.outcome)
        yield js.acknowledge(message, late=not rules.settles_in_term)
    else:
        yield from schedule(rules, message, message.attempt + 1, 0)


def record(message: Message, result: Result, suffix: str = "") -> Generator[Step, Any, Result]:
    """Record a result until that is answered."""
    recorded: Result | None = None
    while recorded is None:
        recorded = yield js.record(message, result, suffix)
    return recorded


def schedule(rules: Rules, message: Message, attempt: int, waits: int, seen: int | None = None) -> Steps:
    """Schedule an attempt where nothing newer is, and acknowledge. `seen`: the schedule found by a look, or 0."""
    since = rules.inherits_doubt and (seen is not None or is_in_doubt(message))
    wanted = Message("scheduled", message.delivery, attempt, waits, message.replay, since)
    stored: str = yield js.publish(
        wanted._replace(id=f"{message.delivery}.{attempt}.{waits}"),
        expected=(seen or 0) if rules.is_monotonic else None,
        under=message if rules.settles_in_term else None,
    )
    if stored in ("stored", "duplicate"):  # nothing older ever replaces it, so what was stored once has been effective
        yield js.acknowledge(message, late=not rules.settles_in_term)
    elif stored != "late":
        yield from reconcile(rules, message, wanted)


def reconcile(
    rules: Rules, message: Message, wanted: Message | None = None, *, again: bool = False
) -> Generator[Step, Any, bool]:
    """Store what is missing of a message that may have been handled before. Return False if it has to be sent.

    The places are read in the order in which a delivery moves. `wanted` is a schedule that may be missing.
    """
    waiting, log = yield from js.search(message, "scheduled", "due", from_leader=rules.reads_leader)
    if log is None:
        if not rules.waits_for_outages:
            yield js.quarantine(message)
        return True  # the message comes again
    of_attempt = [r for r in log.results if r.attempt == message.attempt]
    if rules.tells_waits_apart:
        of_attempt = [r for r in of_attempt if r.outcome != "wait" or r.waits >= message.waits]
    mine = [r.outcome for r in of_attempt]
    final = [r.outcome for r in log.results if r.outcome in FINAL]
    is_behind = any(r.attempt > message.attempt or r.outcome == "delivered" for r in log.results)
    is_stale = is_behind or any((m.attempt, m.waits) > (message.attempt, message.waits) for m in waiting)
    if (is_stale and rules.is_monotonic) or (mine and mine[-1] in FINAL):
        if final and (rules.keeps_final or not is_stale):
            yield js.keep(message.delivery, final[-1])
        yield js.acknowledge(message, late=not rules.settles_in_term)
        return True
    if mine and not again:
        next_up = (
            (message.attempt, min(message.waits + 1, MAX_WAITS)) if mine[-1] == "wait" else (message.attempt + 1, 0)
        )
        wanted = Message("scheduled", message.delivery, *next_up, replay=message.replay)
        if rules.looks_twice:  # it may have been scheduled, and may be due, since the first look
            return (yield from reconcile(rules, message, wanted, again=True))
    if wanted is None:
        return False
    seen = max((m.number for m in waiting if m.stream == "scheduled"), default=0)
    yield from schedule(rules, message, wanted.attempt, wanted.waits, seen)
    return True


def check(state: State) -> None:
    """Check that each accepted delivery is somewhere, and that its final outcome is kept."""
    live = {m.delivery for m in (*state.messages, *state.network) if m.stream != "forgotten"}
    for delivery in state.accepted:
        outcomes = [r.outcome for r in state.log if r.delivery == delivery]
        if delivery not in live and not any((delivery, o) in state.kept for o in outcomes if o in FINAL):
            raise Violation(f"d{delivery} is lost: no message, and {outcomes or 'no result'}")


def is_done(state: State) -> bool:
    """Return whether nothing waits, and no process is in the middle of its program."""
    return not state.messages and all(not p.answers or p.answers == ENDED for p in state.processes)


def environment(rules: Rules, state: State) -> Iterable[tuple[str, State]]:
    """Return what the server can do by itself."""
    yield from js.fire_schedules(state, overdue_ones=rules.fires_overdue)
    yield from grow_old(state)
    yield from arrive(state)
    yield from js.forget(state)
    yield from js.forget_counts(state, distrusted=rules.distrusts_counts)
