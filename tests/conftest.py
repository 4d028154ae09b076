"""What every test may use: uvloop, as in production, and a nats-server of its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from oneprotect.dev.nats_server import EmbeddedNats
from tests.support.api import Api, running
from tests.support.receiver import Scripted
from tests.support.site import Site

settings.register_profile("fuzz", max_examples=10_000, deadline=None)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on uvloop."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make chaos` repeats the tests of failure, and keeps what they counted."""
    parser.addoption("--times", type=int, default=1, help="how often to run each test under tests/chaos")
    parser.addoption("--figures", type=Path, default=None, help="a file for what the tests counted, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test of failure as often as asked for: which moment a kill hits is chance."""
    times: int = metafunc.config.option.times
    if times > 1 and "chaos" in metafunc.definition.path.parts:
        metafunc.fixturenames.append("time")
        metafunc.parametrize("time", range(1, times + 1), ids=lambda time: f"time {time}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test under tests/chaos as serial."""
    for item in items:
        if "chaos" in item.path.parts:
            item.add_marker(pytest.mark.serial)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that reports one line; the summary of the run prints all lines."""
    return lambda text: request.node.user_properties.append(("figure", text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reported figures, and write them to the file that `--figures` names."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {text}"
        for report in reports
        if report.when == "call"
        for name, text in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
        if file := terminalreporter.config.getoption("--figures"):
            file.write_text("".join(f"{line}\n" for line in lines))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that would be skipped has failed: what nobody looks at there is looked at nowhere."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI is set: {reason}"
    return report


@pytest_asyncio.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """A nats-server with an empty JetStream store, for this test alone."""
    async with EmbeddedNats(tmp_path / "nats") as server:
        yield server


@pytest_asyncio.fixture
async def site(tmp_path: Path, nats_server: EmbeddedNats) -> AsyncIterator[Site]:
    """A tenant with a signing secret on that server, everything applied; consumers are up to the test."""
    async with Site(tmp_path, nats_server) as opened:
        yield opened


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Scripted]:
    """A receiver that answers 200 unless its script says otherwise."""
    async with Scripted() as opened:
        yield opened


@pytest_asyncio.fixture
async def api(site: Site) -> AsyncIterator[Api]:
    """The site's HTTP API."""
    async with running(site) as opened:
        yield opened
