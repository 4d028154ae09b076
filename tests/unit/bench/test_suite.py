"""How `python -m bench.all` runs one measurement after the other."""

import time
from pathlib import Path

import msgspec
import pytest

from bench.all import RESULTS, Machine, measure, print_goals
from bench.harness.suite import MEASUREMENTS, Measurement, run


def told(name: str, *arguments: str) -> Measurement:
    """A measurement that does as it is told."""
    return Measurement(name, "tests.support.measurement", 1, arguments)


def machine(results: Path) -> Machine:
    """What is known of the run."""
    return msgspec.json.decode((results / "machine.json").read_bytes(), type=Machine)


def test_one_that_fails_costs_the_others_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Figures of all others are there, those of a failed one as far as it wrote any, and none of a run before."""
    (tmp_path / "fails.json").write_text("old")
    measurements = [
        told("first", "--figure", "1"),
        told("fails", "--code", "3"),
        told("misses", "--figure", "2", "--code", "1"),
        told("last", "--figure", "4"),
    ]

    ran = measure(measurements, tmp_path)

    assert {name: one.code for name, one in ran.items()} == {"first": 0, "fails": 3, "misses": 1, "last": 0}
    assert machine(tmp_path).ran == ran
    assert {file.name: file.read_text() for file in tmp_path.glob("*.json") if file.name != "machine.json"} == {
        "first.json": "1",
        "misses.json": "2",
        "last.json": "4",
    }
    out = capfd.readouterr().out
    assert "[1/4] python -m tests.support.measurement --figure 1: about 1 s" in out
    assert "[2/4] fails: FAILED with 3" in out
    assert "[4/4] last: done" in out


def test_a_run_of_some_leaves_the_figures_of_others(tmp_path: Path) -> None:
    """What is not measured anew stays as it was, and is still known."""
    measure([told("one", "--figure", "1"), told("other", "--figure", "2")], tmp_path)

    measure([told("other", "--figure", "3")], tmp_path)

    assert (tmp_path / "one.json").read_text() == "1"
    assert (tmp_path / "other.json").read_text() == "3"
    assert machine(tmp_path).ran.keys() == {"one", "other"}


def test_one_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    """After its time it is ended, and counts as failed."""
    began = time.monotonic()

    ran = run(told("long", "--wait-s", "60", "--figure", "1"), tmp_path, limit_s=0.5)

    assert ran.code is None
    assert time.monotonic() - began < 30
    assert not (tmp_path / "long.json").exists()


def test_all_of_them_have_names_of_their_own_and_end() -> None:
    """No two write the same file, and all of them together are bounded."""
    names = [one.name for one in MEASUREMENTS]

    assert len(names) == len(set(names))
    assert sum(one.limit_s for one in MEASUREMENTS) < 3600
    assert all(one.shortened().arguments[: len(one.arguments)] == one.arguments for one in MEASUREMENTS)


def test_the_table_of_goals_has_a_row_per_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Every recorded result is read, and each row has four cells."""
    print_goals(RESULTS)

    _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| measurement | result | target | |"
    assert len(rows) > 10
    assert {row.count("|") for row in rows} == {5}
