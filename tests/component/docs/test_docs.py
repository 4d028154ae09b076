"""The documentation against the program: links, anchors, commands, and generated pages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from schemas.codes import Code
from telemetry.metrics.definitions import CATALOGUE
from tests.component.conftest import RunHere
from tools import references

ROOT: Final = Path(__file__).resolve().parents[3]
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "deploy", "examples") for page in (ROOT / name).rglob("*.md"))]
)
SOURCES: Final = sorted(
    path
    for name in ("schemas", "provider", "messaging", "telemetry", "consumers", "oneprotect", "deploy", "tools", "bench")
    for path in (ROOT / name).rglob("*")
    if path.suffix in {".py", ".yaml", ".json", ".html", ".conf", ".md"}
)

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_MENTION = re.compile(r"(?<![/\w.])docs/[\w/-]+\.md(?:#[\w-]+)?")
_IN_TEXT = re.compile(r"`oneprotect ([a-z][^`]*)`")
_IN_BLOCK = re.compile(r"^ *(?:\$ )?(?:[A-Z_]+=\S+ )*(?:.*\| )?oneprotect ([a-z].*?)(?: +#.*)?$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_NAME = re.compile(r"[a-z][a-z-]+")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _is_broken(start: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = start / path if path else start
    if not target.exists():
        return True
    return bool(anchor) and (target.suffix != ".md" or anchor not in _anchors(target))


def _commands() -> Iterator[str]:
    """Yield every `oneprotect` command of the pages, joined over continued lines."""
    for page in PAGES:
        if page.name in references.PAGES and page.parent == references.DIRECTORY:
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        yield from _IN_TEXT.findall(_FENCE.sub("", text))
        yield from (found for block in _FENCE.findall(text) for found in _IN_BLOCK.findall(block))


COMMANDS: Final = sorted({" ".join(re.split(r"[|>&]", command)[0].split()) for command in _commands()})


def _path(command: str) -> list[str]:
    """Return the names before the first argument or option."""
    names: list[str] = []
    for name in command.split():
        if not _NAME.fullmatch(name):
            break
        names.append(name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_works(page: Path) -> None:
    """Relative links lead to a file, and anchors to a heading."""
    found = _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    links = [link for pair in found for link in pair if link and not re.match(r"[a-z]+:", link)]

    assert [
        link for link in links if _is_broken(page if link.startswith("#") else page.parent, link.removeprefix("./"))
    ] == []


def test_every_page_that_the_program_names_exists() -> None:
    """Messages, alerts and comments name pages and headings that exist."""
    mentions = {
        (str(path.relative_to(ROOT)), mention)
        for path in SOURCES
        for mention in _MENTION.findall(path.read_text(encoding="utf-8"))
    }

    assert len(mentions) > 20
    assert [(path, mention) for path, mention in sorted(mentions) if _is_broken(ROOT, mention)] == []


def test_every_log_event_and_metric_of_the_pages_exists() -> None:
    """Pages name the log events and metrics that the program has."""
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.suffix == ".py")
    events: set[str] = set()
    metrics: set[str] = set()
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        metrics |= set(re.findall(r"`(oneprotect_[a-z_]+_(?:total|seconds|bytes|messages|pending|files))`", text))
        events |= set(re.findall(r"`([a-z]+\.[a-z_]+)`", text)) if page.name in ("runbooks.md", "monitor.md") else set()
    events -= {code.value for code in Code}

    assert len(events) > 5
    assert {event for event in events if f'"{event}"' not in sources} == set()
    assert {metric for metric in metrics if metric not in CATALOGUE} == set()


def test_every_file_that_the_pages_name_exists() -> None:
    """Paths of the repository that pages name exist."""
    path = re.compile(r"`((?:schemas|provider|messaging|telemetry|consumers|oneprotect|deploy|bench|tests)/[\w./-]+)`")
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    named = {name for page in pages for name in path.findall(page.read_text(encoding="utf-8"))}

    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_architecture_page_names_every_package() -> None:
    """The package tree of the page has every package of `consumers` and `oneprotect`, and no other."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## Packages")[2].partition("\ndeploy/")[0]
    packages = {
        init.parent.name for name in ("consumers", "oneprotect") for init in (ROOT / name).glob("*/__init__.py")
    }

    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == packages


def test_the_index_names_every_page() -> None:
    """A reader reaches every page of the documentation from its index."""
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link, _ in _LINK.findall(index.read_text())}

    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked == {index}


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_of_the_pages_exists(oneprotect: RunHere, command: str) -> None:
    """The command's help is shown, and names every option that the pages use."""
    ran = await oneprotect(*_path(command)[:2], "--help")
    if ran.code != 0:
        ran = await oneprotect(*_path(command)[:1], "--help")

    assert ran.code == 0, ran.err
    assert [option for option in _OPTION.findall(command) if option not in ran.out] == []


def test_the_pages_have_commands() -> None:
    """The search finds commands in the text and in blocks."""
    assert {"doctor", "apply --check"} <= set(COMMANDS)
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("name", references.PAGES)
def test_a_generated_page_is_fresh(name: str) -> None:
    """A page of the reference equals the output of the program."""
    assert name not in references.stale(), "run: make generate"
