"""Runs of `python -m bench.all`: one measurement after the other."""

import time
from pathlib import Path

import msgspec
import pytest

from bench.all import RESULTS, Machine, measure, print_goals
from bench.harness.suite import MEASUREMENTS, Measurement, run


def measurement(name: str, *arguments: str) -> Measurement:
    """Return a measurement that follows its arguments."""
    return Measurement(name, "tests.unit.bench.measurement", 1, arguments)


def machine(results: Path) -> Machine:
    """Return the recorded machine."""
    return msgspec.json.decode((results / "machine.json").read_bytes(), type=Machine)


def test_one_that_fails_costs_the_others_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A failed measurement keeps its own figures, if it wrote any, and does not stop the others."""
    (tmp_path / "fails.json").write_text("old")
    measurements = [
        measurement("first", "--figure", "1"),
        measurement("fails", "--code", "3"),
        measurement("misses", "--figure", "2", "--code", "1"),
        measurement("last", "--figure", "4"),
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
    assert "[1/4] python -m tests.unit.bench.measurement --figure 1: about 1 s" in out
    assert "[2/4] fails: FAILED with 3" in out
    assert "[4/4] last: done" in out


def test_a_run_of_some_leaves_the_figures_of_others(tmp_path: Path) -> None:
    """A run of one measurement keeps the earlier results of the others."""
    measure([measurement("one", "--figure", "1"), measurement("other", "--figure", "2")], tmp_path)

    measure([measurement("other", "--figure", "3")], tmp_path)

    assert (tmp_path / "one.json").read_text() == "1"
    assert (tmp_path / "other.json").read_text() == "3"
    assert machine(tmp_path).ran.keys() == {"one", "other"}


def test_one_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    """A measurement that exceeds its limit is stopped and counts as failed."""
    began = time.monotonic()

    ran = run(measurement("long", "--wait-s", "60", "--figure", "1"), tmp_path, limit_s=0.5)

    assert ran.code is None
    assert time.monotonic() - began < 30
    assert not (tmp_path / "long.json").exists()


def test_all_of_them_have_names_of_their_own_and_end() -> None:
    """Each measurement writes its own file, and the sum of the limits is bounded."""
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
