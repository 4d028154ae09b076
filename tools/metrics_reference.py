"""The table of metrics in `docs/operations.md`, made from the catalogue.

`python -m tools.metrics_reference` refreshes it in place; a test fails when it is stale.
"""

import sys
from pathlib import Path
from typing import Final

from telemetry.metrics.definitions import CATALOGUE

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
BEGIN: Final = "<!-- metrics: made by `python -m tools.metrics_reference` -->\n"
END: Final = "<!-- end of metrics -->\n"


def table() -> str:
    """The table, in Markdown."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in CATALOGUE.values()
    ]
    return "\n".join(["| metric | kind | labels | tells |", "|---|---|---|---|", *rows]) + "\n"


def refreshed(page: str) -> str:
    """`page` with the table as it is now between its marks. Raises `ValueError` without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no marks for the table")
    return head + BEGIN + "\n" + table() + "\n" + END + tail


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} is fresh\n")
