"""What `python -m bench.all --write-docs` makes of results."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from bench.document import BEGIN, END, write_docs
from bench.errors import BenchError
from bench.latency import Measured
from bench.measure import Latency
from bench.page import Machine
from bench.suite import Ran
from bench.svg import bars

PAGE = f"# Before\n\n{BEGIN}\n\nold\n\n{END}\n\n## After\n"


def _results(directory: Path) -> Path:
    ran = {"latency": Ran("python -m bench.latency", datetime(2026, 1, 1, tzinfo=UTC), 0.5, 20.0)}
    (directory / "machine.json").write_bytes(msgspec.json.encode(Machine(2, "3.11.7", {"nats-py": "2.16.0"}, ran)))
    found = [Measured(200.0, Latency(0.4, 0.75, 2.0), Latency(0.3, 0.5, 1.5))]
    (directory / "latency.json").write_bytes(msgspec.json.encode(found))
    return directory


def _docs(directory: Path, page: str) -> Path:
    docs = directory / "docs"
    (docs / "images").mkdir(parents=True)
    (docs / "explanation").mkdir()
    (docs / "explanation" / "performance.md").write_text(page)
    return docs


def test_figures_replace_what_is_between_the_marks_and_nothing_else(tmp_path: Path) -> None:
    """What was measured is written between the marks, with its picture; the rest of the page stays."""
    docs = _docs(tmp_path, PAGE)

    write_docs(_results(tmp_path), docs)

    text = (docs / "explanation" / "performance.md").read_text()
    assert text.startswith("# Before\n\n" + BEGIN)
    assert text.endswith(END + "\n\n## After\n")
    assert "old" not in text
    assert "python -m bench.latency" in text
    assert "| 200 | product | 0.4 | 0.8 | 2.0 |" in text
    assert "Peers" not in text
    assert "0.8 ms" in (docs / "images" / "bench-latency.svg").read_text()


def test_the_page_says_what_failed(tmp_path: Path) -> None:
    """A measurement that failed is not left out: its figures, if there are any, stand below a warning."""
    results, docs = _results(tmp_path), _docs(tmp_path, PAGE)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ran = {
        "latency": Ran("python -m bench.latency", at, 0.5, 20.0, 1),
        "secrets": Ran("python -m bench.secrets", at, 0.5, 20.0, None),
    }
    (results / "machine.json").write_bytes(msgspec.json.encode(Machine(2, "3.11.7", {}, ran)))

    write_docs(results, docs)

    text = (docs / "explanation" / "performance.md").read_text()
    assert "**`python -m bench.latency` ended with 1: these figures are not as they should be.**" in text
    assert "| 200 | product | 0.4 | 0.8 | 2.0 |" in text
    assert "**`python -m bench.secrets` was stopped: there are no figures.**" in text


def test_goals_that_are_missed_are_marked(tmp_path: Path) -> None:
    """The summary has what was wanted beside what was measured, and says where it falls short."""
    results, docs = _results(tmp_path), _docs(tmp_path, PAGE)

    write_docs(results, docs)
    met = (docs / "explanation" / "performance.md").read_text()
    slow = [Measured(200.0, Latency(4.0, 20.0, 30.0), Latency(0.3, 0.5, 1.5))]
    (results / "latency.json").write_bytes(msgspec.json.encode(slow))
    write_docs(results, docs)
    missed = (docs / "explanation" / "performance.md").read_text()

    assert "| publish to receipt, p95 at 200/s | 0.8 ms | < 15 ms |  |" in met
    assert "| publish to receipt, p95 at 200/s | 20.0 ms | < 15 ms | **missed** |" in missed


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    """Without marks nobody knows where the figures belong: the page is as it was."""
    docs = _docs(tmp_path, "# Nothing\n")

    with pytest.raises(BenchError, match="no marks"):
        write_docs(_results(tmp_path), docs)

    assert (docs / "explanation" / "performance.md").read_text() == "# Nothing\n"


def test_the_page_of_this_repository_has_the_marks() -> None:
    """The figures' place is in the page that is shipped."""
    text = (Path(__file__).parents[3] / "docs" / "explanation" / "performance.md").read_text()

    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_bars_are_well_formed_and_their_lengths_are_in_proportion() -> None:
    """Whatever stands in a label, the picture is XML; the longest bar fills the room, the others their share."""
    picture = ET.fromstring(bars("a < b", [("product & more", 50.0, "50"), ("other", 200.0, "200")]))  # noqa: S314

    widths = [float(bar.attrib["width"]) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == [100.0, 400.0]
