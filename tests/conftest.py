"""Fixtures for all tests: uvloop, as in production, and a real nats-server for each test."""

import asyncio
import faulthandler
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from oneprotect.dev.nats_server import EmbeddedNats
from tests.support.api import Api, running
from tests.support.receiver import Scripted
from tests.support.secured import NatsWithUsers
from tests.support.site import Site

TEARDOWN_TIMEOUT_S = 120

settings.register_profile("fuzz", max_examples=10_000, deadline=None)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on uvloop."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make chaos`: repeat its tests, and write their figures to a file."""
    parser.addoption("--times", type=int, default=1, help="number of runs of each test under tests/chaos")
    parser.addoption("--p99-ms", type=float, default=5000.0, help="bound of the latency of tests under tests/isolation")
    parser.addoption("--figures", type=Path, default=None, help="file to which the reported figures are written")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each test under tests/chaos `--times` times, because the moment of a kill is random."""
    times: int = metafunc.config.option.times
    if times > 1 and "chaos" in metafunc.definition.path.parts:
        metafunc.fixturenames.append("time")
        metafunc.parametrize("time", range(1, times + 1), ids=lambda time: f"time {time}")


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None]:
    """End a process whose fixtures do not end: after a failure, pytest-timeout no longer watches the test."""
    faulthandler.dump_traceback_later(TEARDOWN_TIMEOUT_S, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail each skipped test in CI, where every test must run."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI is set: {reason}"
    return report


@pytest_asyncio.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """Return a nats-server with an empty JetStream store, for this test alone. It has the shipped permissions."""
    async with NatsWithUsers(tmp_path / "nats") as server:
        yield server
    assert not server.refusals, "a role lacks a permission"


@pytest_asyncio.fixture
async def site(tmp_path: Path, nats_server: EmbeddedNats) -> AsyncIterator[Site]:
    """Return an installation with a tenant and a signing secret; the test starts consumers."""
    async with Site(tmp_path, nats_server) as opened:
        yield opened


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Scripted]:
    """Return a receiver that answers 200 unless the test changes its script."""
    async with Scripted() as opened:
        yield opened


@pytest_asyncio.fixture
async def api(site: Site) -> AsyncIterator[Api]:
    """Return the HTTP API of the site."""
    async with running(site) as opened:
        yield opened
