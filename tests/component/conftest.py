"""Fixtures for tests of the command line."""

from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.support.commandline import CommandLine, Ran
from tests.support.site import Site

RunHere = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """Return the runner of command lines, one for each test process."""
    with CommandLine(tmp_path_factory.mktemp("command-line")) as running:
        yield running


@pytest.fixture
def oneprotect(command_line: CommandLine, site: Site) -> RunHere:
    """Return a function that runs a command with the settings of the site."""
    environ = site.environ_of("operator") | {"ONEPROTECT_LOG_LEVEL": "info"}

    async def run(*arguments: str, stdin: bytes = b"", **settings: str) -> Ran:
        changed = {f"ONEPROTECT_{name.upper()}": value for name, value in settings.items()}
        return await command_line.run(environ | changed, *arguments, stdin=stdin)

    return run
