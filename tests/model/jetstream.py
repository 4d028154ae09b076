"""What a model knows of JetStream: streams, ids that the server remembers and forgets, and messages that come again."""

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, NamedTuple, Self

from tests.model.explorer import Process, Step, Violation

FINAL: Final = ("delivered", "failed")
HANDED: Final = 8
"""Deliveries of a message are counted up to this, and then from zero: no more are held at a time."""


class Message(NamedTuple):
    """A request in a live stream."""

    stream: str
    delivery: int
    attempt: int = 1
    waits: int = 0
    """Deferrals of this attempt."""
    replay: int = 0
    since: bool = False
    """Results may be older than the message: look before sending."""
    id: str = ""
    original: int = 0
    """Sequence of the message that this is a copy of."""
    is_checked: bool = True
    """The API has checked the producer's id."""
    claim: int = 0
    """The revision of the API's claim, of a message that was stored so late that it may have been taken over."""
    number: int = 0
    """The sequence."""
    handed: int = 0
    """Times that the server has delivered the message."""
    known: int = 0
    """Times that the server knows of."""


class Result(NamedTuple):
    """A recorded attempt."""

    delivery: int
    attempt: int
    outcome: str
    author: tuple[int, int] = (0, 0)
    """The message and delivery that it came of: the bytes of two authors differ."""
    is_late: bool = False
    """Recorded after the term of its sender had ended."""
    replay: int = 0
    waits: int = 0
    """Of an attempt that waits for its secret: the waits before."""

    @property
    def key(self) -> tuple[int, int, int, bool]:
        """What the results of one round of an attempt share."""
        return self.delivery, self.attempt, self.waits, self.outcome == "wait"


class Log(NamedTuple):
    """What a process has read of the attempt log."""

    results: tuple[Result, ...]


class Claim(NamedTuple):
    """A row of the ledger: a process publishes, or a message is handled, under a producer's id."""

    delivery: int
    revision: int
    by: int = 0
    """The sequence of the message that has the claim; 0 when the API has it."""
    is_stored: bool = False
    is_old: bool = False
    """Older than any process can still act on it."""


class Lease(NamedTuple):
    """The right of one process to an ordered queue, a feed or a replay."""

    number: int


class State(NamedTuple):
    """Everything that exists."""

    processes: tuple[Process, ...]
    faults: int
    messages: tuple[Message, ...] = ()
    ids: frozenset[tuple[str, str]] = frozenset()
    """What the duplicate windows hold."""
    log: tuple[Result, ...] = ()
    kept: frozenset[tuple[int, str]] = frozenset()
    """Deliveries whose outcome and payload are kept: archived or failed."""
    accepted: tuple[int, ...] = ()
    """Deliveries that were acknowledged to their producers."""
    sending: frozenset[tuple[int, int, int]] = frozenset()
    """Requests whose result is not recorded: delivery, and number and `handed` of the message."""
    used: int = 0
    """The last sequence."""
    network: tuple[Message, ...] = ()
    """Publications in a connection that stalls: they arrive at any later time."""
    claims: tuple[Claim, ...] = ()
    is_scheduler_off: bool = False
    """JetStream is disabled on the node that fires the schedules."""
    is_replayed: bool = False
    """The cursor of the replay is behind the delivery."""
    lease: int = 0
    """Number of the current lease."""

    def with_processes(self, processes: tuple[Process, ...]) -> Self:
        """Return the state with other processes."""
        return self._replace(processes=processes)

    def without_fault(self) -> Self:
        """Return the state with a fault less, and without the requests of dead processes."""
        held = {(m.number, m.handed) for p in self.processes for m in _flat(p.answers) if isinstance(m, Message)}
        return self._replace(faults=self.faults - 1, sending=frozenset(one for one in self.sending if one[1:] in held))

    def owns(self, message: Message) -> bool:
        """Return whether the server has not handed `message` out again, and still has it."""
        return any(m.number == message.number and m.handed == message.handed for m in self.messages)

    def without(self, message: Message) -> Self:
        """Return the state without a message."""
        return self._replace(messages=tuple(m for m in self.messages if m.number != message.number))

    def stored(self, message: Message) -> Self:
        """Return the state with a message more. A schedule replaces the one of its delivery."""
        kept = self.messages
        if message.stream == "scheduled":
            kept = tuple(m for m in kept if m.stream != "scheduled" or m.delivery != message.delivery)
        stored = message._replace(number=self.used + 1, handed=0, known=0)
        ids = self.ids | {(message.stream, message.id)} if message.id else self.ids
        return self._replace(messages=(*kept, stored), ids=ids, used=self.used + 1)


Moves = Iterable[tuple[str, Any, State]]


def start_state(processes: Mapping[str, int], faults: int, *waiting: Message) -> State:
    """Return the state in which `waiting` are stored and acknowledged to their producers."""
    running = tuple(Process(name) for name, count in sorted(processes.items()) for _ in range(count))
    state = State(running, faults, accepted=tuple(sorted({m.delivery for m in waiting})))
    for message in waiting:
        state = state.stored(message)
    return state


def has_lost_lease(process: Process, state: State) -> bool:
    """Return whether a process that acquired a lease no longer has it."""
    first = process.answers[0] if process.answers else None
    return isinstance(first, Lease) and first.number != state.lease


def publish(
    message: Message, *, cap: int = 99, expected: int | None = None, under: Message | None = None, certain: bool = False
) -> Step:
    """Publish with the message's id.

    Args:
        message: Its sequence is ignored.
        cap: Messages that the stream may hold.
        expected: The sequence of the last message of the subject; 0 when it must be empty.
        under: A pulled message within whose term this must happen.
        certain: The answer is not lost.

    Answers `stored`, `duplicate`, `full`, `conflict`, `late`, or `unknown` when the answer is lost.
    """
    text = f"publish {message.stream} d{message.delivery} attempt {message.attempt}"

    def step(state: State, _process: Process) -> Moves:
        beside = [m for m in state.messages if m.stream == message.stream]
        last = max((m.number for m in beside if m.delivery == message.delivery), default=0)
        answer = ""
        if under is not None and not state.owns(under):
            answer = "late"
        elif message.id and (message.stream, message.id) in state.ids:
            answer = "duplicate"
        elif len(beside) >= cap:
            answer = "full"
        elif expected not in (None, last):
            answer = "conflict"
        if answer:
            yield f"{text}: {answer}", answer, state
            return
        yield f"{text}: stored", "stored", state.stored(message)
        if state.faults and not certain:
            yield f"{text}: stored, answer lost", "unknown", state.stored(message).without_fault()
            if expected is None:
                stalled = state._replace(network=(*state.network, message))
                yield f"{text}: the connection stalls", "unknown", stalled.without_fault()

    return step


def arrive(state: State, cap: int) -> Iterable[tuple[str, State]]:
    """Return the state after each stalled publication that can arrive."""
    for message in state.network:
        rest = state._replace(network=tuple(m for m in state.network if m is not message))
        is_known = (message.stream, message.id) in state.ids
        is_full = message.stream == "work" and sum(m.stream == "work" for m in state.messages) >= cap
        yield f"{message.stream} d{message.delivery} arrives", rest if is_known or is_full else rest.stored(message)


def pull(*streams: str) -> Step:
    """Receive any message that no live process holds; as a fault, one whose holder is paused for too long."""

    def step(state: State, _process: Process) -> Moves:
        firsts = (p.answers[0] for p in state.processes if p.answers)
        held = {(m.number, m.handed) for m in firsts if isinstance(m, Message)}
        for message in state.messages:
            is_held = (message.number, message.handed) in held
            if message.stream not in streams or (is_held and not state.faults):
                continue
            given = message._replace(handed=(message.handed + 1) % HANDED, known=min(message.known + 1, 2))
            messages = tuple(given if m is message else m for m in state.messages)
            after = state._replace(messages=messages, faults=state.faults - is_held)
            text = f"receive {message.stream} d{message.delivery} attempt {message.attempt}, delivery {given.known}"
            yield f"{text}, as its holder is paused beyond its term" if is_held else text, given, after

    return step


def acknowledge(message: Message, *, late: bool = True) -> Step:
    """Remove a message; with `late` also after its term, as the server allows it."""

    def step(state: State, _process: Process) -> Moves:
        if not late and not state.owns(message):
            yield "do not acknowledge: the term has ended", None, state
            return
        yield f"acknowledge {message.stream} d{message.delivery}", None, state.without(message)
        if state.faults:
            yield "acknowledge: lost", None, state.without_fault()

    return step


def delete(message: Message) -> Step:
    """Delete a message by its sequence. Answers `deleted`, or `unknown` when the answer is lost."""
    text = f"delete {message.stream} d{message.delivery}"

    def step(state: State, _process: Process) -> Moves:
        yield text, "deleted", state.without(message)
        if state.faults:
            yield f"{text}: lost", "unknown", state.without_fault()

    return step


def purge(message: Message) -> Step:
    """Purge the subject of a work message. The server forgets the pending messages of other subjects as well."""

    def step(state: State, _process: Process) -> Moves:
        rest = state.without(message)
        left = (m._replace(stream="forgotten") if m.stream == "work" and m.handed else m for m in rest.messages)
        yield f"purge the subject of d{message.delivery}", None, rest._replace(messages=tuple(left))

    return step


def read_log(message: Message, *, from_leader: bool) -> Step:
    """Read the results of a delivery since its message's replay began; from a replica, perhaps not the newest.

    Answers None when there is no answer.
    """

    def step(state: State, _process: Process) -> Moves:
        results = tuple(r for r in state.log if r.delivery == message.delivery and r.replay >= message.replay)
        yield "read the attempt log", Log(results), state
        if state.faults:
            yield "read the attempt log: no answer", None, state.without_fault()
            for count in range(0 if from_leader else len(results)):
                yield f"read {count} of {len(results)} results", Log(results[:count]), state.without_fault()

    return step


def find_waiting(delivery: int, stream: str) -> Step:
    """Read the requests of a delivery in a stream, from the leader."""

    def step(state: State, _process: Process) -> Moves:
        found = tuple(m for m in state.messages if m.delivery == delivery and m.stream == stream)
        yield f"find {len(found)} requests in {stream}", found, state

    return step


def search(
    message: Message, *streams: str, from_leader: bool = True
) -> Generator[Step, Any, tuple[tuple[Message, ...], Log | None]]:
    """Find the requests of a delivery in `streams`, and then its results: in the order in which a delivery moves."""
    waiting: list[Message] = []
    for stream in streams:
        found: tuple[Message, ...] = yield find_waiting(message.delivery, stream)
        waiting += found
    log: Log | None = yield read_log(message, from_leader=from_leader)
    return tuple(waiting), log


def send(message: Message, *, checks_term: bool) -> Step:
    """Send the request, and receive the receiver's answer; `late` when the term has ended."""
    text = f"send d{message.delivery} attempt {message.attempt}"

    def step(state: State, process: Process) -> Moves:
        if not state.owns(message) or has_lost_lease(process, state):
            if not checks_term:
                raise Violation(f"{text} after its term")
            yield f"do not {text}: the term has ended", "late", state
            return
        _check_send(text, message, state, process)
        after = state._replace(sending=state.sending | {(message.delivery, message.number, message.handed)})
        yield f"{text}: accepted", "delivered", after
        yield f"{text}: refused", "refused", after

    return step


def _check_send(text: str, message: Message, state: State, process: Process) -> None:
    if message.stream == "ordered":
        done = {r.delivery for r in state.log if r.outcome in FINAL}
        if any(d < message.delivery and d not in done for d in state.accepted):
            raise Violation(f"{text} before an earlier one is settled")
    read = [answer.results for answer in process.answers if isinstance(answer, Log)]
    for result in state.log:
        is_related = result.delivery == message.delivery and result.replay >= message.replay
        is_newer = result.outcome in FINAL or result.attempt >= message.attempt + (result.outcome == "wait")
        # A request that was in flight at the end of its term may end after the next consumer has looked for it.
        is_excused = result.is_late and read and result not in read[0]
        if is_related and is_newer and not is_excused:
            raise Violation(f"{text} although attempt {result.attempt} is recorded as {result.outcome}")
    for delivery, number, handed in state.sending:
        if delivery == message.delivery and state.owns(message._replace(number=number, handed=handed)):
            raise Violation(f"{text} while another request of this delivery is in flight, within its term")


def record(message: Message, result: Result, suffix: str = "") -> Step:
    """Store a result. Answers it, or the one that is stored under its id already; None when the answer is lost."""
    author = message.number, message.handed
    text = f"record d{result.delivery} attempt {result.attempt}{suffix} {result.outcome}"
    key = "log", f"{result.delivery}.{result.attempt}{suffix}"

    def step(state: State, _process: Process) -> Moves:
        state = state._replace(sending=state.sending - {(message.delivery, *author)})
        if key in state.ids:
            first = next(r for r in state.log if r.key == result.key)
            yield f"{text}: duplicate", first, state
            return
        stored = result._replace(replay=message.replay, author=author, is_late=not state.owns(message))
        after = state._replace(log=(*state.log, stored), ids=state.ids | {key})
        yield f"{text}: stored", stored, after
        if state.faults:
            yield f"{text}: stored, answer lost", None, after.without_fault()

    return step


def keep(delivery: int, outcome: str) -> Step:
    """Store the payload with its final outcome: in the archive, or with the failed deliveries."""
    return change(f"keep d{delivery} {outcome}", lambda state: {"kept": state.kept | {(delivery, outcome)}})


def accept(delivery: int) -> Step:
    """Acknowledge a delivery to its producer."""
    return change(
        f"acknowledge d{delivery} to its producer",
        lambda state: {"accepted": tuple(sorted({*state.accepted, delivery}))},
    )


def quarantine(message: Message) -> Step:
    """Quarantine a message. In these models all are valid."""

    def step(_state: State, _process: Process) -> Moves:
        raise Violation(f"d{message.delivery} is quarantined, and nothing is wrong with it")

    return step


def change(text: str, updates: Callable[[State], dict[str, Any]]) -> Step:
    """Update some fields of the state, without an answer."""
    return lambda state, _process: [(text, None, state._replace(**updates(state)))]


def choose(*options: str) -> Step:
    """Answer any of `options`."""
    return lambda state, _process: [(f"choose {option}", option, state) for option in options]


def fire_schedules(state: State, *, overdue_ones: bool) -> Iterable[tuple[str, State]]:
    """Return the state after each schedule that can fire: any, at any time.

    Consumers fire `overdue_ones` themselves, so that the server's scheduler does not matter.
    """
    if state.faults and not overdue_ones and not state.is_scheduler_off:
        yield "the scheduler is off", state._replace(is_scheduler_off=True, faults=state.faults - 1)
    for message in state.messages:
        if message.stream == "scheduled" and not state.is_scheduler_off:
            text = f"the schedule of d{message.delivery} attempt {message.attempt} fires"
            yield text, state.without(message).stored(message._replace(stream="due", id=""))


def forget(state: State) -> Iterable[tuple[str, State]]:
    """Return the states after the server forgets ids: at a restart, or when the duplicate window has passed.

    The window is longer than a term or a lease, and than a stalled connection lives.
    """
    if not state.faults or state.network:
        return
    stored = frozenset(key for key in state.ids if key[0] == "log") | {(m.stream, m.id) for m in state.messages}
    if state.ids - stored:
        yield "the server restarts", state._replace(ids=state.ids & stored, faults=state.faults - 1)
    if state.ids and not any(_acts_in_term(state, process) for process in state.processes):
        yield "the duplicate window passes", state._replace(ids=frozenset(), faults=state.faults - 1)


def forget_counts(state: State, *, distrusted: bool) -> Iterable[tuple[str, State]]:
    """Return the state after a killed server has lost how often it delivered what waits.

    `distrusted`: for consumers a message that is older than their connection is delivered again.
    """
    if state.faults and any(m.known for m in state.messages):
        lost = tuple(m._replace(known=int(distrusted)) for m in state.messages)
        yield "the server is killed and loses its counts", state._replace(messages=lost, faults=state.faults - 1)


def _acts_in_term(state: State, process: Process) -> bool:
    first = process.answers[0] if process.answers else None
    return state.owns(first) if isinstance(first, Message) else first == Lease(state.lease)


def _flat(answers: tuple[Any, ...]) -> Iterable[Any]:
    for answer in answers:
        yield from answer if type(answer) is tuple else (answer,)
