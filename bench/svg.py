"""Bars as SVG, by hand: readable on a light page and on a dark one, and the same bytes for the same figures."""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 720
_LEFT: Final = 190
_ROOM: Final = 400
_STEP: Final = 28
_TOP: Final = 44
_STYLE: Final = (
    "text{font:14px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.bar{fill:#8c959f}.ours{fill:#0969da}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.ours{fill:#4493f8}}"
)

Row = tuple[str, float, str]
"""A label, its length, and what is written behind."""


def bars(title: str, rows: Sequence[Row]) -> str:
    """A picture with a bar for each row; those of the product stand out."""
    most, height = max(length for _, length, _ in rows), _TOP + _STEP * len(rows) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(title)}</text>',
    ]
    for number, (label, length, text) in enumerate(rows):
        y, width = _TOP + _STEP * number, max(1.0, _ROOM * length / most)
        kind = "bar ours" if label.startswith("product") else "bar"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.0f}" height="20" rx="3"/>',
            f'<text x="{_LEFT + width + 8:.0f}" y="{y + 15}">{escape(text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
