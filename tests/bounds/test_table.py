"""The table of input bounds against the code."""

import ast
from collections import Counter
from pathlib import Path

from tests.bounds.test_growth import CASES
from tools.input_bounds import TABLE, UNTRUSTED

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "provider", "messaging", "telemetry", "consumers", "oneprotect")
OF_THE_OPERATOR = tuple(f"oneprotect/{part}/" for part in ("cli", "doctor", "dev", "settings", "supervisor"))
"""Commands and settings: a user who blocks a program of his own harms nobody."""
ALWAYS = {"msgspec.json.decode", "msgspec.msgpack.decode", "jwt.decode", "idna.encode"}
ANYWHERE = {
    "Decoder", "SimpleCookie", "a2b_base64", "b64decode", "convert", "fnmatch", "fnmatchcase", "fromhex",
    "fromisoformat", "get_unverified_header", "ip_address", "ip_network", "literal_eval", "loads", "parse_qs",
    "parse_qsl", "parsedate_to_datetime", "safe_load", "sort", "sorted", "translate_pattern", "unescape", "unquote",
    "unquote_plus", "unquote_to_bytes", "urlparse", "urlsafe_b64decode", "urlsplit",
}  # fmt: skip


def uses_in(source: str) -> Counter[str]:
    """Return the calls of a module that compile, decode, parse or sort, with their number."""
    calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return Counter(
        call.removeprefix("msgspec.")
        for call in calls
        if call.startswith("re.") or call in ALWAYS or call.rpartition(".")[2] in ANYWHERE
    )


def listed(uses: str) -> Counter[str]:
    """Return the uses of a row, with their number."""
    pairs = (use.partition("*") for use in uses.split())
    return Counter({call: int(number or 1) for call, _, number in pairs})


def test_the_table_lists_every_use() -> None:
    """A module that gains or loses one must change its row in `tools/input_bounds.py`, and perhaps its growth cases."""
    found = {
        name: uses
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not (name := path.relative_to(ROOT).as_posix()).startswith(OF_THE_OPERATOR)
        and (uses := uses_in(path.read_text()))
    }

    table = {row.module: listed(row.uses) for row in TABLE if row.uses}
    assert found == table


def test_the_search_finds_each_kind_of_use() -> None:
    """Otherwise the table could miss one."""
    source = (
        "import re\nx = re.compile('a').match\nsorted(y)\ny.sort()\nmsgspec.json.decode(b'')\nJSON.Decoder(T)\nint(z)"
    )

    assert uses_in(source) == {"re.compile": 1, "sorted": 1, "y.sort": 1, "json.decode": 1, "JSON.Decoder": 1}


def test_input_that_others_control_has_growth_cases() -> None:
    """Sorting alone needs none: it takes n log n."""
    untrusted = {row.module for row in TABLE if row.source in UNTRUSTED and row.note == "linear"}

    assert untrusted == {case.module for case in CASES}
    assert all((ROOT / row.module).is_file() for row in TABLE)
