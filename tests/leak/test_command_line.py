"""Output of commands that succeed or fail, with a secret in the installation or in an argument."""

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.leak.support import search_targets
from tests.leak.support.commands import Ran, Run, parameters, ran
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Canary, Search
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

MARKER = "a-harmless-marker"
ACME = {"tenant": TENANT}

COMMANDS: Final[Mapping[tuple[str, ...], Mapping[str, str]]] = {
    ("apply",): {},
    ("doctor",): {},
    ("recover",): {},
    ("deliver",): ACME | {"destination": "orders", "event_type": "invoice.paid", "data": "FILES/body.json"},
    ("attempts",): ACME,
    ("failed", "list"): ACME,
    ("failed", "show"): ACME | {"delivery": MARKER},
    ("quarantine", "list"): {},
    ("quarantine", "show"): {"number": "1"},
    ("quarantine", "release"): {"numbers": "1"},
    ("replay",): ACME,
    ("verify",): {"secret_files": "FILES/secret", "body": "FILES/body.json", "headers_file": "FILES/headers"},
    ("schemas",): {"output": "FILES/schemas"},
    ("destination", "set"): ACME | {"destination": "new", "url": "https://example.com/in", "credential": "key"},
    ("destination", "get"): ACME | {"destination": "orders"},
    ("destination", "list"): ACME,
    ("destination", "disable"): ACME | {"destination": "new"},
    ("destination", "enable"): ACME | {"destination": "new"},
    ("destination", "delete"): ACME | {"destination": "new"},
    ("credential", "set"): ACME | {"credential": "new", "secret_ref": f"k8s://{NAMESPACE}/signing-key/signing"},
    ("credential", "get"): ACME | {"credential": "key"},
    ("credential", "list"): ACME,
    ("credential", "check"): ACME | {"credential": "key"},
    ("credential", "delete"): ACME | {"credential": "new"},
    ("secret", "check"): ACME | {"ref": f"k8s://{NAMESPACE}/signing-key/signing"},
    ("secret", "refresh"): ACME | {"credential": "key"},
    ("retry",): ACME | {"delivery": MARKER},
    ("nats", "files"): {"output": "FILES/nats"},
    ("nats", "user"): {"role": "consumer", "nkey": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"},
    ("nats", "key"): {"output": "FILES/user.nk"},
    ("token", "create"): ACME | {"roles": "viewer"},
    ("token", "list"): {},
    ("token", "delete"): {"token": "nosuchtokennosuc"},
    ("tenant", "usage"): ACME,
    ("tenant", "delete"): ACME,
}
"""Every command that ends by itself, in an order in which all succeed, with what they need by parameter."""

ENDLESS: Final = {("dev",), ("consumer",), ("api",)}
"""Those that don't: they are run elsewhere."""

KEPT: Final = {
    ("schemas", "output"),
    ("destination set", "description"),
    ("destination disable", "reason"),
    ("token create", "name"),
    ("nats files", "output"),
    ("nats key", "output"),
}
"""Where what is typed is kept or written on purpose, so that its owner finds it again."""


def _line(command: tuple[str, ...], values: Mapping[str, str], files: Path) -> tuple[str, ...]:
    """Return the command with these values for these parameters."""
    words = list(command)
    for name, value in values.items():
        parameter = parameters()[command][name]
        option = [parameter.opts[0]] if parameter.opts[0].startswith("-") else []
        words += [*option, value.replace("FILES", str(files))]
    return tuple(words)


def _hear(sinks: Sinks, runs: list[Run], results: list[Ran]) -> None:
    for run, result in zip(runs, results, strict=True):
        name = f"command {' '.join(run.arguments[:2])} {'--json' in run.arguments}"
        sinks.hear(name, f"exit code {result.code}", result.out, result.err)


async def _ran_beside(slow: tuple[str, ...], site: Site, runs: list[Run]) -> list[Ran]:
    """Run all commands, and at the same time those that wait for replies."""
    is_slow = [run.arguments[: len(slow)] == slow for run in runs]
    parts = [[run for run, it in zip(runs, is_slow, strict=True) if it is kind] for kind in (False, True)]
    quick, waiting = (iter(part) for part in await asyncio.gather(*(ran(site.environ, part) for part in parts)))
    return [next(waiting if it else quick) for it in is_slow]


def _write_files(directory: Path, secret: str) -> Path:
    """Write the files that commands read."""
    directory.mkdir()
    (directory / "secret").write_text(secret)
    (directory / "body.json").write_text(f'{{"marker": "{MARKER}"}}')
    (directory / "headers").write_text(f"webhook-id: {MARKER}\nwebhook-timestamp: 1\nwebhook-signature: v1,bad=\n")
    return directory


def test_every_command_is_covered() -> None:
    """A new command requires an entry in the table with arguments that succeed."""
    assert set(parameters()) <= COMMANDS.keys() | ENDLESS


async def test_commands_that_succeed_print_no_secret(site: Site, sinks: Sinks, tmp_path: Path) -> None:
    """Commands print no secret in either format at DEBUG; some, such as `verify`, get invalid input."""
    secret, query = Canary("secret", site.secret), Canary.word("URL's query")
    files = _write_files(tmp_path / "files", site.secret)
    runs = [
        Run((*_line(command, values, files), *how))
        for how in ((), ("--json",))
        for command, values in COMMANDS.items()
        if command in parameters()
    ]
    runs += [Run((*_line(("replay",), ACME, files), "--dry-run", *how)) for how in ((), ("--json",))]
    async with Scripted([500, 200]) as receiver, site.consumer():
        await site.destination("orders", f"{receiver.url}?token={query.reveal()}")
        await site.deliver("orders")
        await site.deliver("nowhere", delivery=MARKER)
        await site.publish("orders", b"{", "dlv_poison")
        await until(site.is_settled, 10)
        results = await _ran_beside(("secret", "refresh"), site, runs)
    _hear(sinks, runs, results)
    signature = Canary("signature", receiver.seen[0].headers["webhook-signature"].removeprefix("v1,"))

    failed = {run.arguments[:2] for run, result in zip(runs, results, strict=True) if result.code}
    assert {names[0] for names in failed} <= {"verify", "doctor", "quarantine", "token", "retry", "nats"}
    assert failed.isdisjoint({("token", "create"), ("nats", "files"), ("nats", "user")})
    assert all(result.out or result.err for result in results)
    assert sinks.findings(Search(secret, signature, query)) == []


async def test_a_secret_pasted_at_any_parameter_is_not_repeated(site: Site, sinks: Sinks, tmp_path: Path) -> None:
    """In place of any argument or option of any command, in turns for people and as JSON."""
    pasted = Canary.secret("pasted secret")
    files = _write_files(tmp_path / "files", site.secret)
    runs = [
        Run((*_line(command, {**COMMANDS[command], name: pasted.reveal()}, files), *how))
        for (command, name), how in zip(_places(), itertools.cycle([(), ("--json",)]), strict=False)
    ]
    results = await ran(site.environ, runs)
    _hear(sinks, runs, results)

    wrong = sum(result.code != 0 for result in results)
    assert wrong > 0.8 * len(runs)
    assert all(result.err for result in results if result.code)
    assert sinks.findings(Search(pasted)) == []
    stored = search_targets.store(site)
    assert Search(pasted).find(stored["file KV_oneprotect_credentials"]) == []


def _places() -> list[tuple[tuple[str, ...], str]]:
    return [
        (command, name)
        for command in COMMANDS
        for name, parameter in parameters().get(command, {}).items()
        if not getattr(parameter, "is_flag", False) and (" ".join(command), name) not in KEPT
    ]
