"""What the figures of one run are written on: headings with commands, tables, and pictures beside."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from bench.errors import BenchError
from bench.suite import Ran
from bench.svg import Row, bars

T = TypeVar("T")
Lines = Iterable[str]


class Machine(Struct, frozen=True):
    """Where it ran."""

    cores: int
    python: str
    versions: dict[str, str]
    ran: dict[str, Ran]


class Page:
    """What is written: sections with the command of each, and pictures beside."""

    def __init__(self, results: Path, docs: Path) -> None:
        self._results = results
        self._images = docs / "images"
        self.machine = self._read("machine", Machine)

    def _read(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode((self._results / f"{name}.json").read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError) as error:
            why = type(error).__name__
        raise BenchError(f"bench/results/{name}.json: {why}; `python -m bench.all` writes it")

    def found(self, name: str, kind: type[T]) -> T | None:
        """The figures of a measurement; None if there are none. Raises `BenchError` when they can't be read."""
        return self._read(name, kind) if self.has(name) else None

    def has(self, name: str) -> bool:
        """Whether it was run, and wrote figures."""
        return name in self.machine.ran and (self._results / f"{name}.json").exists()

    def section(self, title: str, name: str, kind: type[T], lines: Callable[[T], Lines]) -> Iterator[str]:
        """A heading, the command, and the lines; none if it was not run, and a word on it if it failed."""
        if name not in self.machine.ran:
            return
        yield from (f"### {title}: `{self.machine.ran[name].command}`", "", *self.complaint(name))
        if self.has(name):
            yield from (*lines(self._read(name, kind)), "")

    def complaint(self, name: str) -> Iterator[str]:
        """That it failed, if it did."""
        ran = self.machine.ran[name]
        if ran.code != 0:
            how = "was stopped" if ran.code is None else f"ended with {ran.code}"
            what = "these figures are not as they should be" if self.has(name) else "there are no figures"
            yield from (f"**`{ran.command}` {how}: {what}.**", "")

    def picture(self, name: str, title: str, rows: Sequence[Row]) -> str:
        """Draw it; returns the line that shows it."""
        (self._images / f"bench-{name}.svg").write_text(bars(title, rows))
        return f"![{title}](../images/bench-{name}.svg)"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """As Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
