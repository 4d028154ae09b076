"""The commands of `deploy/nats/README.md`, run in their order by a newcomer in an empty directory."""

import asyncio
import os
import re
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from oneprotect.dev.nats_server import free_port
from tests.support.secured import SHIPPED

SECTIONS: Final = ("Keys", "Single server", "Let a tenant publish over NATS", "Trusted publishers")
_SECTION: Final = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_STARTED: Final = "nats-server --config server.conf\n"
_IN_BACKGROUND: Final = """\
nats-server --config server.conf 2> server.log &
server=$!
trap 'kill "$server"; wait "$server"' EXIT
for _ in $(seq 100); do grep -q "Server is ready" server.log && break; sleep 0.05; done
"""
_LAST: Final = """
ONEPROTECT_NATS_NKEY_FILE=$PWD/api.nk ONEPROTECT_NATS_INBOX_PREFIX=_INBOX_api oneprotect destination list --tenant acme
oneprotect apply --check
"""


def _script(port: int) -> str:
    """Return the commands of the page, for a free port and a server in the background."""
    sections = dict(_SECTION.findall((SHIPPED / "README.md").read_text()))
    script = "".join(block for name in SECTIONS for _, block in _BLOCK.findall(sections[name]))
    assert script.count(_STARTED) == 1
    script = re.sub(rf"^ *{re.escape(_STARTED)}", lambda _: _IN_BACKGROUND, script, flags=re.MULTILINE)
    script = script.replace("localhost:4222", f"localhost:{port}").replace(
        "--signal reload", '--signal reload="$server"'
    )
    ports = f"sed -i 's/0.0.0.0:4222/127.0.0.1:{port}/; s/127.0.0.1:8222/127.0.0.1:-1/' server.conf\n"
    return script.replace("for role in", f"{ports}for role in", 1) + _LAST


@pytest.mark.timeout(60)
async def test_the_commands_of_the_readme_work_in_one_shell(tmp_path: Path) -> None:
    """From an empty directory to a server with streams, a tenant's account and a trusted publisher."""
    tools = sysconfig.get_path("scripts")
    environ = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), "CHECKOUT": str(SHIPPED.parents[1])}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", _script(free_port())),
        cwd=tmp_path,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert "Everything is up to date." in output
    assert "[ERR]" not in (tmp_path / "server.log").read_text()
    assert (tmp_path / "server.log").read_text().count("Reloaded: accounts") == 2, "the first one adds no import"
