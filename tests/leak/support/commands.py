"""Many commands run in one process, which this file is when run as a program."""

import asyncio
import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec


class Run(msgspec.Struct, frozen=True):
    """A command to run, with settings beyond the common ones."""

    arguments: tuple[str, ...]
    settings: dict[str, str] = {}


class Ran(msgspec.Struct, frozen=True):
    """How it went."""

    code: int
    out: str
    err: str


async def ran(environ: Mapping[str, str], runs: Sequence[Run]) -> list[Ran]:
    """Run `oneprotect` with each of the argument lists, in order."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        env={**inherited, **environ},
        cwd=Path(__file__).parents[3],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await process.communicate(msgspec.json.encode(runs))
    return msgspec.json.decode(answer, type=list[Ran])


@functools.cache
def parameters() -> dict[tuple[str, ...], dict[str, Any]]:
    """Return every command and its parameters by name."""
    import typer.main

    from oneprotect.cli.app import app

    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                walk(one, (*path, name))
        else:
            found[path] = {parameter.name: parameter for parameter in command.params}

    walk(typer.main.get_command(app), ())
    return found


def _main() -> None:
    from oneprotect.cli.app import run

    ours = dict(os.environ)
    out, err = io.StringIO(), io.StringIO()  # the same for all, as loggers keep what they were first given
    results: list[dict[str, Any]] = []
    for each in json.loads(sys.stdin.buffer.read()):
        at = out.tell(), err.tell()
        os.environ.clear()
        os.environ.update(ours | each.get("settings", {}))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(each["arguments"])
        results.append({"code": code, "out": out.getvalue()[at[0] :], "err": err.getvalue()[at[1] :]})
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    _main()
