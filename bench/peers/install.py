"""Install the peers: into `.tools/peers`, from the committed lock files, by pip and npm as they are set up here."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.peers.plan import Peer

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
KEPT_IN: Final = ROOT / ".tools" / "peers"
BIN: Final = KEPT_IN / "venv" / "bin"
NODE_MODULES: Final = KEPT_IN / "bullmq" / "node_modules"
REDIS: Final = "redis-server"


def missing(peer: Peer) -> str | None:
    """Return a missing requirement of a peer and the way to install it, or None."""
    if peer.broker != "nats" and not (shutil.which(REDIS) and shutil.which("redis-cli")):
        return "it needs redis-server and redis-cli: apt-get install redis-server"
    if peer.runs_on_node and not (shutil.which("node") and shutil.which("npm")):
        return "it needs node and npm: apt-get install nodejs npm"
    return None


def install(peer: Peer) -> None:
    """Install the packages of a peer from its lock file, unless they are installed. Raises `CalledProcessError`."""
    if peer.runs_on_node:
        _install_node()
    else:
        _install_python()


def _install_python() -> None:
    lock, ready = HERE / "requirements.txt", KEPT_IN / "venv" / ".requirements"
    if _is_ready(ready, lock):
        return
    _run(sys.executable, "-m", "venv", str(KEPT_IN / "venv"))
    pip = (str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, "--require-hashes", "--no-deps", "-r", str(lock))
    shutil.copy(lock, ready)


def _install_node() -> None:
    lock, ready = HERE / "bullmq" / "package-lock.json", KEPT_IN / "bullmq" / ".lock"
    if _is_ready(ready, lock):
        return
    ready.parent.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", lock.name):
        shutil.copy(lock.parent / name, ready.parent)
    _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefix", str(ready.parent))
    shutil.copy(lock, ready)


def _is_ready(ready: Path, lock: Path) -> bool:
    return ready.exists() and ready.read_bytes() == lock.read_bytes()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, timeout=600)  # noqa: S603
