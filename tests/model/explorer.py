"""An exhaustive explorer of protocols: every order of steps, and every fault of a budget, breadth first.

A protocol is a set of programs. A program is a generator that yields one step at a time, and receives the answer. Its
state is the tuple of the answers so far: the generator runs again with them. So a crash drops the answers, and a pause
is a program that does not step. Programs of one name are interchangeable, so their order does not count.
"""

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, Self

Answer = Any
Step = Callable[[Any, "Process"], Iterable[tuple[str, Answer, Any]]]
"""Returns what can happen: a description, the answer, and the state afterwards."""
Program = Callable[[], Generator[Step, Answer, bool | None]]
"""A protocol of one process. It starts again at its end, unless it returns True."""
ENDED: Final = ("ended",)


class Violation(Exception):
    """A broken promise, raised by a step or a check."""


class Process(NamedTuple):
    """A running program, and the answers that it has received."""

    name: str
    answers: tuple[Answer, ...] = ()


class World(Protocol):
    """A state: hashable, with the processes and the faults that may still happen."""

    @property
    def processes(self) -> tuple[Process, ...]:
        """The processes."""
        ...

    @property
    def faults(self) -> int:
        """The faults that may still happen. A step that takes one away is a fault."""
        ...

    def with_processes(self, processes: tuple[Process, ...]) -> Self:
        """Return the state with other processes."""
        ...


class Exploration(NamedTuple):
    """The result: the number of states, and the steps to the first violation."""

    states: int
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"\n  {number}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.states} states" + (f": {self.violation}{steps}" if self.violation else ", all as promised")


class _Explorer:
    def __init__(self, programs: Mapping[str, Program], lasting: str) -> None:
        self._programs = programs
        self._lasting = lasting
        self._next: dict[Process, Step | bool | None] = {}

    def steps(self, state: Any) -> Iterable[tuple[str, Any]]:
        """Return what the processes of `state` can do."""
        for place, process in enumerate(state.processes):
            if process.answers == ENDED:
                continue
            step = self._step(process)
            for text, answer, after in step(state, process):
                following = Process(process.name, (*process.answers, answer))
                ended = self._step(following)
                if not callable(ended):
                    following = Process(process.name, ENDED if ended else ())
                rest = (*state.processes[:place], following, *state.processes[place + 1 :])
                yield f"{process.name}: {text}", after.with_processes(_in_order(rest))

    def crashes(self, state: Any) -> Iterable[tuple[str, Any]]:
        """Return the crashes of processes that have done something."""
        for place, process in enumerate(state.processes):
            is_mortal = process.name != self._lasting and process.answers != ENDED
            if process.answers and is_mortal and state.faults:
                rest = (*state.processes[:place], Process(process.name), *state.processes[place + 1 :])
                yield f"{process.name} crashes", state.with_processes(_in_order(rest)).without_fault()

    def _step(self, process: Process) -> Any:
        if process not in self._next:
            running = self._programs[process.name]()
            try:
                step: Step | bool = next(running)
                for answer in process.answers:
                    step = running.send(answer)
            except StopIteration as end:
                step = bool(end.value)
            self._next[process] = step
        return self._next[process]


def _in_order(processes: tuple[Process, ...]) -> tuple[Process, ...]:
    return tuple(sorted(processes, key=lambda one: (one.name, hash(one.answers))))


def explore(
    start: Any,
    programs: Mapping[str, Program],
    *,
    environment: Callable[[Any], Iterable[tuple[str, Any]]],
    check: Callable[[Any], None],
    is_done: Callable[[Any], bool],
    lasting: str = "",
) -> Exploration:
    """Visit every state that `start` leads to, until a check raises `Violation`.

    Processes of the program `lasting` do not crash.
    From every state the steps without a further fault must lead to one that `is_done`.
    """
    gc.disable()  # nothing is garbage here, and the collector would search all states again and again
    try:
        return _explore(start, _Explorer(programs, lasting), environment, check, is_done)
    finally:
        gc.enable()


def _explore(
    start: Any,
    explorer: "_Explorer",
    environment: Callable[[Any], Iterable[tuple[str, Any]]],
    check: Callable[[Any], None],
    is_done: Callable[[Any], bool],
) -> Exploration:
    number = {start: 0}
    states, came_from = [start], [(0, "")]
    before: list[list[int]] = [[]]
    waiting = deque([0])
    while waiting:
        at = waiting.popleft()
        state = states[at]
        try:
            check(state)
            for text, after in _moves(explorer, environment, state):
                to = number.get(after)
                if to is None:
                    to = number[after] = len(states)
                    states.append(after)
                    came_from.append((at, text))
                    before.append([])
                    waiting.append(to)
                if after.faults == state.faults:
                    before[to].append(at)
        except Violation as violation:
            return Exploration(len(states), str(violation), _trace(came_from, at))
    stuck = _first_stuck(states, before, is_done)
    if stuck is not None:
        return Exploration(len(states), "from here it never ends", _trace(came_from, stuck))
    return Exploration(len(states))


def _moves(
    explorer: _Explorer, environment: Callable[[Any], Iterable[tuple[str, Any]]], state: Any
) -> Iterable[tuple[str, Any]]:
    yield from explorer.steps(state)
    yield from environment(state)
    yield from explorer.crashes(state)


def _first_stuck(states: list[Any], before: list[list[int]], is_done: Callable[[Any], bool]) -> int | None:
    ends = [is_done(state) for state in states]
    waiting = [number for number, done in enumerate(ends) if done]
    while waiting:
        for earlier in before[waiting.pop()]:
            if not ends[earlier]:
                ends[earlier] = True
                waiting.append(earlier)
    return ends.index(False) if False in ends else None


def _trace(came_from: list[tuple[int, str]], at: int) -> tuple[str, ...]:
    steps: list[str] = []
    while at:
        at, text = came_from[at]
        steps.append(text)
    return tuple(reversed(steps))
