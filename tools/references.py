"""The generated pages of `docs/reference`.

`python -m tools.references` writes them; with `--check` it fails when one is stale.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tools import (
    api_reference,
    cli_reference,
    codes_reference,
    events_reference,
    input_bounds,
    metrics_reference,
    settings_reference,
)

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"
PAGES: Final[dict[str, Callable[[], str]]] = {
    "cli.md": cli_reference.page,
    "events.md": events_reference.page,
    "http-api.md": api_reference.page,
    "input-bounds.md": input_bounds.page,
    "metrics.md": metrics_reference.page,
    "result-codes.md": codes_reference.page,
    "settings.md": settings_reference.page,
}


def write() -> None:
    """Write every generated page."""
    for name, page in PAGES.items():
        (DIRECTORY / name).write_text(page(), encoding="utf-8")


def stale() -> list[str]:
    """Return the names of the pages that differ from what the program gives."""
    return [name for name, page in PAGES.items() if (DIRECTORY / name).read_text(encoding="utf-8") != page()]


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        write()
    elif names := stale():
        sys.exit(f"stale in docs/reference: {', '.join(names)}; run `make generate`")
