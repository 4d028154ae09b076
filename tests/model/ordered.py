"""The protocol of an ordered destination: three routes into its queue, one mover, and one head at a time."""

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

from tests.model import jetstream as js
from tests.model import protocol
from tests.model.explorer import Process, Step
from tests.model.jetstream import FINAL, Lease, Message, Moves, Result, State
from tests.model.protocol import Steps, record


class OrderedRules(NamedTuple):
    """The rules that the promises rest on. A mutation leaves one out."""

    probes: bool = True
    """A direct publish asks first what waits in work and overflow."""
    checks_lease: bool = True
    marks_moved: bool = True
    """A moved message looks at the log before it is sent."""
    looks_at_old_heads: bool = True
    reads_overflow_again: bool = True
    """A move asks after its reads what has arrived in the overflow."""
    deletes_one: bool = True
    """A moved message is removed alone."""
    waits_for_hands: bool = True
    """Only what has been handed over is moved, and removed."""
    copies_wait: bool = True
    """A moved copy waits while its original is there."""


def queue(rules: OrderedRules, attempts: int, actions: int) -> Steps:
    """Serve the queue under one lease."""
    lease: Lease = yield acquire
    newest: int = yield newest_of("ordered")
    for _ in range(actions):
        head: Message | None
        work: tuple[Message, ...]
        head, work = yield either(pull_head, read("work"))
        if head is not None:
            newest = yield from deliver(rules, head, newest, attempts)
        else:
            yield from move(rules, work)
    yield release(lease)


def move(rules: OrderedRules, work: tuple[Message, ...]) -> Steps:
    """Move what waits into the queue, oldest first. `work` is what was read of the work stream."""
    seen: int = yield newest_of("overflow")
    batch = work
    if seen:
        overflow: tuple[Message, ...] = yield read("overflow", until=seen)
        work = yield read("work", from_leader=True)
        newest = (yield newest_of("overflow")) if rules.reads_overflow_again else seen
        batch = tuple(sorted((*overflow, *work), key=lambda m: m.number))
        if newest > seen:
            cut = max((m.number for m in overflow), default=0)
            batch = tuple(m for m in batch if m.number <= cut)
    for message in batch:
        copy = message._replace(stream="ordered", since=rules.marks_moved)
        stored: str = yield under_lease(js.publish(copy), "move", check=rules.checks_lease)
        if stored in ("late", "unknown"):
            return
        yield js.delete(message)


def hand() -> Steps:
    """Handle a message of a destination that becomes ordered, or unordered again: send it, or hand it over."""
    handling = protocol.consumer(protocol.Rules(), 1)
    message: Message = yield next(handling)
    action = "send"
    if message.handed == 1:  # a second time would only make the model larger
        action = yield js.choose("send", "hand over")
    if action == "hand over":
        yield js.change(
            f"hand over d{message.delivery}",
            lambda state: {
                "messages": _in_stream(state, message, "handed over") if state.owns(message) else state.messages
            },
        )
        return None
    step = handling.send(message)
    while True:
        answer: Any = yield step
        try:
            step = handling.send(answer)
        except StopIteration:
            return None


def changed_queue(rules: OrderedRules) -> Steps:
    """Serve the queue of a destination whose messages may be in hand elsewhere."""
    lease: Lease = yield acquire
    head: Message | None
    work: tuple[Message, ...]
    head, work = yield either(pull_head, read("work", "handed over", from_leader=True))
    if head is None and work:
        yield from move_free(rules, work[0])
    elif head is not None:
        originals: tuple[Message, ...] = yield read("work", "handed over", from_leader=True)
        if not (rules.copies_wait and any(m.number == head.original for m in originals)):
            yield from deliver(rules, head, 0, 1)
    yield release(lease)


def move_free(rules: OrderedRules, oldest: Message) -> Steps:
    """Move the oldest message if nobody has it in hand, and remove it if that is still so."""
    if rules.waits_for_hands and oldest.stream != "handed over":
        return
    copy = oldest._replace(stream="ordered", since=True, original=oldest.number)
    stored: str = yield under_lease(js.publish(copy), "move", check=True)
    if stored not in ("late", "unknown"):
        yield remove(oldest, only_free=rules.waits_for_hands)


def remove(message: Message, *, only_free: bool) -> Step:
    """Delete a message. A consumer that has it in hand does not notice."""

    def step(state: State, _process: Process) -> Moves:
        found = next((m for m in state.messages if m.number == message.number), None)
        if found is None or (only_free and found.stream != "handed over"):
            yield f"do not delete d{message.delivery}: it may be in hand", None, state
        elif found.stream == "handed over":
            yield f"delete d{message.delivery}", None, state.without(message)
        else:
            yield f"delete d{message.delivery}", None, state._replace(messages=_in_stream(state, message, "forgotten"))

    return step


def come_again(state: State) -> Iterable[tuple[str, State]]:
    """Return the states after the server delivers what was handed over, and forgets ids."""
    for message in state.messages:
        if message.stream == "handed over":
            yield f"the pause of d{message.delivery} ends", state._replace(messages=_in_stream(state, message, "work"))
    yield from js.forget(state)


def _in_stream(state: State, message: Message, stream: str) -> tuple[Message, ...]:
    return tuple(m._replace(stream=stream) if m.number == message.number else m for m in state.messages)


def mover(rules: OrderedRules) -> Steps:
    """Move a message of an ordered destination out of the work stream, where others have messages, too."""
    message: Message = yield js.pull("fifo")
    stored: str = yield js.publish(message._replace(stream="ordered", since=True))
    if stored != "unknown":
        yield js.delete(message) if rules.deletes_one else js.purge(message)
    return None


def deliver(rules: OrderedRules, head: Message, newest: int, attempts: int) -> Generator[Step, Any, int]:
    """Send the head once. Return the newest message that may have been sent."""
    attempt = 1
    if head.since or (head.number <= newest and rules.looks_at_old_heads):
        log: js.Log | None = yield js.read_log(head, from_leader=True)
        if log is None:
            return newest
        final = [r.outcome for r in log.results if r.outcome in FINAL]
        if final:
            yield js.keep(head.delivery, final[-1])
            yield under_lease(js.acknowledge(head), "acknowledge", check=True)
            return newest
        attempt = max((r.attempt for r in log.results), default=0) + 1
    head = head._replace(attempt=attempt)
    answer: str = yield js.send(head, checks_term=rules.checks_lease)
    if answer == "late":
        return newest
    outcome = answer if answer == "delivered" else "failed" if attempt >= attempts else "retry"
    recorded = yield from record(head, Result(head.delivery, attempt, outcome))
    if recorded.outcome in FINAL:
        yield js.keep(head.delivery, recorded.outcome)
        yield under_lease(js.acknowledge(head), "acknowledge", check=True)
    return max(newest, head.number)


def producer(rules: OrderedRules, deliveries: int, cap: int) -> Steps:
    """Request deliveries, each by any route, and each after the one before is acknowledged.

    `tests.model.ledger` is about requests that are repeated.
    """
    for delivery in range(1, deliveries + 1):
        route: str = yield js.choose("direct", "work")
        target = "work"
        if route == "direct" and rules.probes:
            work: int = yield newest_of("work")
            overflow: int = yield newest_of("overflow")
            target = "overflow" if overflow else "work" if work else "ordered"
        elif route == "direct":
            target = "ordered"
        request = Message(target, delivery, id=f"{delivery}")
        stored: str = yield js.publish(request, cap=cap if target == "work" else 99, certain=True)
        if stored == "full":
            yield js.publish(request._replace(stream="overflow"), certain=True)
        yield js.accept(delivery)
    return True


def either(first: Step, second: Step) -> Step:
    """Answer a pair: the answer to the step that was made, and nothing for the other."""

    def step(state: State, process: Process) -> Moves:
        yield from ((text, (answer, None), after) for text, answer, after in first(state, process))
        yield from ((text, (None, answer), after) for text, answer, after in second(state, process))

    return step


def acquire(state: State, _process: Process) -> Moves:
    """Acquire the lease: a free one, a dead holder's, or as a fault that of a holder that is paused."""
    is_held = any(p.answers and p.answers[0] == Lease(state.lease) for p in state.processes)
    others = {p.answers[0].number for p in state.processes if p.answers and isinstance(p.answers[0], Lease)}
    lease = Lease(min({1, 2, 3} - others))
    after = state._replace(lease=lease.number)
    if not is_held:
        yield "acquire the lease", lease, after
    elif state.faults:
        yield "acquire the lease of a paused holder", lease, after.without_fault()


def release(lease: Lease) -> Step:
    """Release the lease, if it is still held."""
    return js.change("release the lease", lambda state: {"lease": 0 if state.lease == lease.number else state.lease})


def under_lease(step: Step, text: str, *, check: bool) -> Step:
    def checked(state: State, process: Process) -> Moves:
        if check and process.answers[0] != Lease(state.lease):
            yield f"do not {text}: the lease is lost", "late", state
        else:
            yield from step(state, process)

    return checked


def newest_of(stream: str) -> Step:
    def step(state: State, _process: Process) -> Moves:
        newest = max((m.number for m in state.messages if m.stream == stream), default=0)
        yield f"the newest of {stream} is {newest}", newest, state

    return step


def read(*streams: str, until: int = 0, from_leader: bool = False) -> Step:
    stream = streams[0]

    def step(state: State, _process: Process) -> Moves:
        found = tuple(m for m in state.messages if m.stream in streams)
        yield f"read {len(found)} of {stream}", found, state
        if state.faults and not from_leader:
            for count in range(len(found)):
                if not until or (found[:count] and found[count - 1].number >= until):
                    yield (
                        f"read {count} of {len(found)} of {stream} from a replica",
                        found[:count],
                        state.without_fault(),
                    )

    return step


def pull_head(state: State, process: Process) -> Moves:
    """Receive the head, if there is one and the lease is held. The server hands out one message at a time."""
    heads = [m for m in state.messages if m.stream == "ordered"]
    if not heads or js.has_lost_lease(process, state):
        return
    given = heads[0]._replace(handed=(heads[0].handed + 1) % js.HANDED)
    messages = tuple(given if m is heads[0] else m for m in state.messages)
    yield f"receive the head d{given.delivery}", given, state._replace(messages=messages)
