"""Replays at the command line: shown, resumed and cancelled."""

import json
import shlex
from collections.abc import Awaitable, Callable

import pytest

from schemas.configuration import ReplayFilter, ReplayState
from tests.support.commandline import Ran
from tests.support.retained_deliveries import keep, requested
from tests.support.site import TENANT, Process, Site
from tests.support.terminal import at_terminal
from tests.support.waiting import until

pytestmark = pytest.mark.retry

RunHere = Callable[..., Awaitable[Ran]]
REPLAY = ("replay", "--tenant", TENANT)

BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("--resume", "rpl-1", "--dry-run"), 2, "--dry-run, --list, --resume and --cancel conflict"),
    (("--cancel", "rpl-1", "--list"), 2, "--dry-run, --list, --resume and --cancel conflict"),
    (("--resume", "rpl-1", "--code", "http.5xx"), 2, "--list, --resume and --cancel accept no filter"),
    (("--list", "--since", "1h"), 2, "--list, --resume and --cancel accept no filter"),
    (("--cancel", "rpl-1", "--rate", "5"), 2, "--rate: has no effect here"),
    (("--resume", "Hidden_1"), 2, "--resume: expected 1 to 63 of a-z"),
    (("--cancel", ""), 2, "--cancel: expected 1 to 63 of a-z"),
    (("--cancel", "rpl-1"), 1, "the tenant has no replay with this id; see `oneprotect replay --list`"),
    (("--resume", "rpl-1"), 1, "the tenant has no replay with this id; see `oneprotect replay --list`"),
]
"""Options, exit code, and what the error says."""


async def test_invalid_options_are_refused(site: Site, oneprotect: RunHere) -> None:
    """Contradictory options exit with 2 and an unknown replay with 1, in one line and without requests."""
    await keep(site, 1)

    runs = [await oneprotect(*REPLAY, *options) for options, _, _ in BAD]

    assert [ran.code for ran in runs] == [code for _, code, _ in BAD]
    assert [ran.err for ran, (_, _, told) in zip(runs, BAD, strict=True) if told not in ran.err] == []
    assert {ran.err.count("\n") for ran in runs} == {1}
    assert "idden" not in "".join(ran.err for ran in runs)
    assert await requested(site) == []


async def test_a_running_replay_is_shown_cancelled_and_shown_again(site: Site, oneprotect: RunHere) -> None:
    """`--list` shows a running replay; `--cancel` ends it within seconds and shows its progress."""
    await keep(site, 300)
    process = await Process.start(
        site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, *REPLAY, "--code", "http.5xx", "--rate", "20", "--json"
    )
    await until(lambda: requested(site), 20)

    (running,) = (await oneprotect(*REPLAY, "--list", "--json")).json
    shown = await oneprotect(*REPLAY, "--list")
    cancelled = await oneprotect(*REPLAY, "--cancel", running["replay"])
    code = await process.wait()
    (ended,) = (await oneprotect(*REPLAY, "--list", "--json")).json
    again = await oneprotect(*REPLAY, "--cancel", running["replay"])
    resumed = await oneprotect(*REPLAY, "--resume", running["replay"], "--json")

    told = json.loads(process.output)
    count = len(await requested(site))
    assert (running["state"], running["filter"], running["cancelled_by"]) == ("running", {"codes": ["http.5xx"]}, None)
    assert [word in shown.out for word in (running["replay"], "running", "http.5xx", "cli:")] == [True] * 4
    assert (cancelled.code, code) == (0, 1)
    assert cancelled.out == f"Replay {running['replay']} is cancelled: {count} replayed, 0 skipped.\n"
    assert told["error"].startswith("cancelled by cli:")
    assert (ended["state"], ended["replayed"], told["replayed"]) == ("cancelled", count, count)
    assert 0 < count < 300
    assert (again.code, again.err) == (1, "error: this replay is cancelled already\n")
    assert (resumed.code, resumed.error["error"]) == (1, "this replay is cancelled already")


async def test_an_interrupted_replay_is_resumed_by_its_id(site: Site, oneprotect: RunHere) -> None:
    """`--resume` continues an interrupted replay without repeated requests."""
    deliveries = await keep(site, 40)
    process = await Process.start(site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, *REPLAY, "--rate", "20", "--json")
    await until(lambda: requested(site), 20)
    process.terminate()
    await process.wait()

    command = shlex.split(json.loads(process.output)["resume"])
    (listed,) = (await oneprotect(*REPLAY, "--list", "--json")).json
    resumed = await oneprotect(*command[1 : command.index("--rate")])

    assert command[:4] == ["oneprotect", *REPLAY]
    assert listed["state"] == "interrupted"
    assert resumed.code == 0
    assert resumed.err.startswith(f"note: resuming replay {listed['replay']}: ")
    assert resumed.out == f"Replay {listed['replay']} is finished: 40 replayed, 0 skipped.\n"
    assert await requested(site) == sorted(deliveries)


async def test_a_waiting_replay_names_the_running_one(site: Site, oneprotect: RunHere) -> None:
    """A second replay waits for the first, names it, and then finds no deliveries."""
    await keep(site, 20)
    replayer = site.jetstream.replayer
    process = await Process.start(site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, *REPLAY, "--rate", "4", "--json")
    await until(lambda: requested(site), 20)

    second = await oneprotect(*REPLAY, "--destination", "orders")

    rows = await replayer.list(TENANT)
    assert (second.code, await process.wait()) == (0, 0)
    assert second.err.startswith("note: waiting for replay rpl-")
    assert second.out.endswith("is finished: 0 replayed, 20 skipped.\n")
    assert [(row.state, row.filter) for row in rows.values()] == [
        (ReplayState.FINISHED, ReplayFilter()),
        (ReplayState.FINISHED, ReplayFilter(destination="orders")),
    ]


async def test_a_terminal_gets_a_prompt_and_a_progress_bar(site: Site) -> None:
    """The prompt shows the count, only yes starts the replay, and a bar shows the progress."""
    deliveries = await keep(site, 3)

    no = await at_terminal(site.environ, *REPLAY, types=b"\n")
    nothing = await requested(site)
    yes = await at_terminal(site.environ, *REPLAY, types=b"yes\n")

    assert (no.code, nothing) == (1, [])
    assert "Replay up to 3 deliveries? [y/N]" in no.err
    assert "error: nothing was replayed" in no.err
    assert yes.code == 0
    assert "replaying" in yes.err
    assert "is finished: 3 replayed, 0 skipped." in yes.out
    assert await requested(site) == sorted(deliveries)
