"""The command line without a connection: help, invalid arguments and settings, and misplaced secrets."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from oneprotect.cli.app import run
from oneprotect.cli.support.errors import print_error, to_cli_error
from tests.support.commandline import CommandLine
from tests.support.site import Process

COMMANDS = [
    ("dev",), ("apply",), ("consumer",), ("deliver",), ("attempts",), ("replay",), ("verify",), ("schemas",),
    ("destination", "set"), ("destination", "get"), ("destination", "list"), ("destination", "enable"),
    ("destination", "disable"), ("destination", "delete"),
    ("credential", "set"), ("credential", "get"), ("credential", "list"), ("credential", "delete"),
    ("secret", "check"), ("secret", "refresh"), ("credential", "check"), ("doctor",),
    ("api",), ("token", "create"), ("token", "list"), ("token", "delete"),
    ("nats", "files"), ("nats", "key"), ("nats", "user"),
]  # fmt: skip
PASTED = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def _words(value: str | tuple[str, ...]) -> str:
    return "" if isinstance(value, str) else " ".join(value)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has a summary, `--json` and at least one complete example."""
    code = run([*command, "--help"])

    text = capsys.readouterr().out
    assert code == 0
    assert "--json" in text
    assert f"oneprotect {' '.join(command)}" in text.partition("\n  Example")[2]


def test_help_imports_nothing_heavy() -> None:
    """The list of commands imports none of the slow libraries."""
    program = (
        "import sys; from oneprotect.cli.app import run; code = run(['--help']); "
        "heavy = {'aiohttp', 'nats', 'rich', 'structlog', 'uvloop', 'kubernetes_asyncio', 'cryptography'}; "
        "sys.exit(code or ', '.join(heavy & set(sys.modules)) or 0)"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")
    for command in {command[0] for command in COMMANDS}:
        assert f"  {command} " in ran.stdout


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the name and the version, and nothing else."""
    code = run(["--version"])

    assert code == 0
    assert capsys.readouterr().out.startswith("oneprotect 0.")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("aply",), "no such command aply; did you mean apply, replay? see `oneprotect --help`"),
        (("nothing-like-it",), "no such command nothing-like-it; see `oneprotect --help`"),
        (("apply", "--chek"), "no such option --chek; did you mean --check"),
        (("apply", "now"), "unexpected extra argument; quote arguments that contain spaces"),
        (("deliver",), "missing option '--tenant'"),
        (("destination", "get", "--tenant", "acme"), "missing argument 'ID'"),
        (("secret", "check", "k8s://a/b/c"), "missing option '--tenant'"),
        (("attempts", "--limit", "many"), "invalid value for '--limit'"),
        (("attempts", "--limit", "0"), "invalid value for '--limit'"),
        (("attempts", "--outcome", "lost"), "invalid value for '--outcome': not one of 'delivered'"),
        (("attempts", "--code", "http.600"), "invalid value for '--code': not one of 'http.2xx'"),
        (("attempts", "--destination", "orders"), "--destination: requires --tenant"),
        (("attempts", "--tenant", "Acme"), "--tenant: expected 1 to 63 of a-z, 0-9 and `-`"),
        (("attempts", "--tenant", "acme", "--id", "a.b"), "--id: expected 1 to 64 of A-Z, a-z, 0-9, `_` and `-`"),
        (("attempts", "--since", "yesterday"), "--since: expected a time like 2026-11-23T20:00:00Z"),
        (("attempts", "--since", "2026-11-23T20:00:00"), "--since: expected a time like 2026-11-23T20:00:00Z"),
        (("attempts", "--follow", "--until", "1h"), "--until: conflicts with --follow"),
        (("replay", "--tenant", "*"), "--tenant: expected 1 to 63"),
        (("replay", "--tenant", "acme", "--rate", "0"), "invalid value for '--rate'"),
        (("replay", "--tenant", "acme", "--since", "1h", "--until", "2h"), "--until: expected a time after --since"),
        (("replay", "--tenant", "acme", "--event-type", "a b"), "event_types[0]: expected words"),
        (("replay", "--tenant", "acme", "--id", "a b"), "--id: expected 1 to 64"),
        (("consumer", "--max-in-flight", "0"), "invalid value for '--max-in-flight'"),
        (
            ("destination", "set", "a", "--tenant", "b", "--url", "c", "--credential", "d", "--header", "x"),
            "--header: expected 'name: value'",
        ),
        (
            ("destination", "set", "a", "--tenant", "b", "--url", "c", "--credential", "d", "--retry-schedule-s", "x"),
            "--retry-schedule-s: expected comma-separated seconds",
        ),
        (("credential", "set", "a", "--tenant", "b", "--secret-ref", "c", "--purpose", "d"), "'webhook-signing'"),
        (("verify", "--secret-file", "/none", "--body", "/none"), "--secret-file: the file does not exist"),
        (("verify", "--secret-file", "/", "--body", "/none"), "--secret-file: expected a file, not a directory"),
        (("verify", "--secret-file", "-", "--body", "-"), "only one of --secret-file, --headers and --body"),
    ],
    ids=_words,
)
def test_bad_arguments_exit_with_one_line_and_code_2(
    arguments: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid arguments exit with code 2 and one line on stderr, or one object with --json."""
    plain_code = run(arguments)
    plain = capsys.readouterr()
    json_code = run([*arguments, "--json"])
    as_json = capsys.readouterr()

    assert (plain_code, json_code) == (2, 2)
    assert (plain.out, as_json.out) == ("", "")
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1
    assert told in plain.err
    assert json.loads(as_json.err)["error"] == plain.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    "arguments",
    [
        (PASTED,),
        (f"--{PASTED}",),
        ("secret", PASTED),
        ("secret", "check", PASTED, PASTED),
        ("secret", "check", PASTED, "--tenant", PASTED),
        ("secret", "check", "k8s://a/b/c", "--tenant", "acme", "--purpose", PASTED),
        ("credential", "set", PASTED, "--tenant", PASTED),
        ("attempts", "--tenant", PASTED),
        ("attempts", "--id", PASTED),
        ("attempts", "--outcome", PASTED),
        ("attempts", "--code", PASTED),
        ("attempts", "--limit", PASTED),
        ("attempts", "--since", PASTED),
        ("replay", "--tenant", "acme", "--event-type", PASTED),
        ("replay", "--tenant", "acme", "--rate", PASTED),
        ("verify", "--secret-file", PASTED, "--body", "-"),
        ("verify", "--secret-file", "-", "--body", "-", "--header", PASTED),
        ("verify", "--secret", PASTED),
    ],
    ids=" ".join,
)
def test_a_secret_at_a_wrong_place_is_not_repeated(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error repeats nothing of a secret that was typed in the wrong place."""
    for extra in ((), ("--json",)):
        code = run([*arguments, *extra])

        told = capsys.readouterr()
        assert code == 2
        assert told.err
        assert "C2FVsBQ" not in told.err + told.out


async def test_settings_end_a_command_before_it_begins() -> None:
    """An unknown variable or an invalid value exits with code 2, by variable name and without the value."""
    environ = {"ONEPROTECT_NATS_ULR": PASTED, "ONEPROTECT_API_PORT": PASTED}

    plain = await Process.start(environ, "apply")
    as_json = await Process.start(environ, "attempts", "--json")

    assert (await plain.wait(), await as_json.wait()) == (2, 2)
    told = plain.output.decode()
    assert "error: ONEPROTECT_NATS_ULR: not a setting; did you mean ONEPROTECT_NATS_URL?\n" in told
    assert "error: ONEPROTECT_API_PORT: expected a whole number from 0 to 65535" in told
    assert len(json.loads(as_json.output)["problems"]) == 2
    assert PASTED.encode() not in plain.output + as_json.output


async def test_a_consumer_without_a_provider_does_not_start(command_line: CommandLine) -> None:
    """A consumer requires a secret provider: there is no default and no fallback."""
    ran = await command_line.run({}, "consumer", "--json")

    assert ran.code == 2
    assert ran.error["error"].startswith("ONEPROTECT_SECRET_PROVIDER: required")


async def test_a_command_without_a_server_fails_at_once(command_line: CommandLine) -> None:
    """Without NATS, a command exits with code 1 and one line at once."""
    ran = await command_line.run({"ONEPROTECT_NATS_URL": "nats://127.0.0.1:1"}, "apply")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: NATS is unreachable at nats://127.0.0.1:1")
    assert ran.err.count("\n") == 1


def test_an_unexpected_error_shows_only_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    """The output of an unexpected exception has its type and the next step, and not its text."""
    group = ExceptionGroup("tasks", [KeyError(PASTED)])

    print_error(to_cli_error(group), as_json=False)

    assert to_cli_error(group).exit_code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: unexpected KeyError; set ONEPROTECT_LOG_LEVEL=debug")
    assert PASTED not in told


def test_a_closed_pipe_is_no_crash(tmp_path: Path) -> None:
    """Output to a closed pipe writes nothing to stderr."""
    program = [sys.executable, "-m", "oneprotect", "schemas", "--output", str(tmp_path)]

    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        told = process.stderr.read()
        code = process.wait()

    assert (code, told) == (1, b"")


async def test_schemas_are_written(command_line: CommandLine, tmp_path: Path) -> None:
    """`schemas` writes JSON documents and prints their paths."""
    ran = await command_line.run({}, "schemas", "--output", str(tmp_path / "new"), "--json")
    refused = await command_line.run({}, "schemas", "--output", "/dev/null/x", "--json")

    written = {str(path): json.loads(path.read_bytes()) for path in (tmp_path / "new").iterdir()}
    assert ran.code == 0
    assert {str(tmp_path / "new" / f"{name}.json") for name in ("asyncapi", "openapi")} <= set(written)
    assert set(ran.json["files"]) == set(written)
    assert (refused.code, refused.error["error"].partition(":")[0]) == (1, "--output")
