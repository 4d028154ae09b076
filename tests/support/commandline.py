"""A runner of command lines that starts Python only once.

A server process imports everything and forks for each command, which has its own environment, files and exit code.
This module, run as a program, is the server process.
"""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

_INHERITED = ("PATH", "HOME", "LANG")


class Ran(msgspec.Struct, frozen=True):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Return the JSON document on stderr."""
        return json.loads(self.err)


class CommandLine:
    """The server process, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        self._server = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.communicate(timeout=30)

    async def run(self, environ: dict[str, str], *arguments: str, stdin: bytes = b"") -> Ran:
        """Run `oneprotect ARGUMENTS` with only `environ` and Python's own variables in its environment."""
        return await asyncio.to_thread(self._run, environ, arguments, stdin)

    def _run(self, environ: dict[str, str], arguments: Sequence[str], stdin: bytes) -> Ran:
        assert self._server.stdin
        assert self._server.stdout
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        (self._directory / "in").write_bytes(stdin)
        order = {"directory": str(self._directory), "environ": inherited | environ, "arguments": list(arguments)}
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ran(code, (self._directory / "out").read_text(), (self._directory / "err").read_text())


def _serve() -> None:
    """Read orders, one JSON document a line, and answer each with an exit code."""
    for module in ("cli.app", "cli.views.replay", "bootstrap.resources"):  # once, and not in each fork
        importlib.import_module(f"oneprotect.{module}")
    for line in iter(sys.stdin.buffer.readline, b""):
        order = json.loads(line)
        child = os.fork()
        if not child:
            _become(**order)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(directory: str, environ: dict[str, str], arguments: list[str]) -> None:
    from oneprotect.__main__ import main

    for number, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
        os.dup2(os.open(f"{directory}/{name}", flags | os.O_CREAT | (os.O_TRUNC if number else 0), 0o600), number)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = arguments
    code: object = 1
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
