"""The commands that docs/operations.md tells an operator to type: ours are there, with the options that it names."""

import re
from pathlib import Path

import pytest

from tests.component.conftest import RunHere

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
COMMANDS = sorted(set(re.findall(r"`oneprotect ([a-z][^`]*)`", PAGE.read_text(encoding="utf-8"))))
_OPTION = re.compile(r"--[a-z-]+")
_WORD = re.compile(r"[a-z][a-z-]+")


def _path(command: str) -> list[str]:
    """The words before the first argument or option."""
    words: list[str] = []
    for word in command.split():
        if not _WORD.fullmatch(word):
            break
        words.append(word)
    return words


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_of_the_page_is_there(oneprotect: RunHere, command: str) -> None:
    """Its help is shown, and names each option."""
    ran = await oneprotect(*_path(command), "--help")

    assert ran.code == 0, ran.err
    assert [option for option in _OPTION.findall(command) if option not in ran.out] == []


def test_the_page_has_commands() -> None:
    """The look for commands finds those that are there."""
    assert {"doctor", "apply --check", "replay --tenant TENANT --list"} <= set(COMMANDS)
