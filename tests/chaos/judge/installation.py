"""An installation as an operator has it: three servers, two APIs and some consumers, each a process of its own.

Each consumer and API reaches each server through a proxy of its own. Nothing here imports the product.
"""

import asyncio
import base64
import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.chaos.judge.proxy import Proxy
from tests.chaos.judge.versions import Version
from tests.support.cluster import free_ports

TENANTS: Final = ("acme", "globex")
RETRY_SCHEDULE_S: Final = (0.5, 1, 1, 2, 2, 3, 3, 4, 4, 5)
_NAMESPACE: Final = "webhooks"
_START_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
"""libfaketime (Debian package `faketime`), which moves the clock of one consumer."""


class Member:
    """A process that can be started again; each start has a label of its own."""

    def __init__(self, name: str, command: Callable[[], Sequence[str]], environ: dict[str, str], log: Path) -> None:
        self.name, self.environ, self.starts = name, environ, 0
        self.directory = Path("/")
        self._command, self._log = command, log
        self.process: subprocess.Popen[bytes] | None = None
        self.labels: dict[int, str] = {}
        """The label of each process id."""

    @property
    def label(self) -> str:
        """The current start, as in `consumer1.3`."""
        return f"{self.name}.{self.starts}"

    @property
    def pid(self) -> int:
        """Process id of the current start."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the process; the kernel kills it when this process ends."""
        self.starts += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self._command()),
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - one thread
            )
        self.labels[self.pid] = self.label

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def ended(self, patience_s: float = 40.0) -> None:
        """Wait until the process has ended, and kill it after a time."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, patience_s)
            return
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def kill(self) -> None:
        """Kill the process, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.ended()


class Program(Member):
    """A consumer or an API, behind proxies, of a version that may change with each start."""

    def __init__(
        self, name: str, site: "Installation", arguments: Sequence[str], proxies: Sequence[Proxy], urls: Sequence[str]
    ) -> None:
        self.version = site.version
        self.proxies = proxies
        super().__init__(
            name,
            lambda: (str(self.version.python), "-m", "oneprotect", *arguments),
            site.environ | {"ONEPROTECT_NATS_URL": ",".join(urls)},
            site.directory / f"{name}.log",
        )

    def start(self) -> None:
        """Start the process in the checkout of its version, whose modules come first."""
        self.directory = self.version.checkout
        super().start()


class Server(Member):
    """A nats-server of the cluster."""

    def __init__(self, name: str, directory: Path, ports: Sequence[int], routes: Sequence[int], number: int) -> None:
        self.port, self.monitor_port, self.store = ports[number], ports[3 + number], directory / "store" / name
        self.store.mkdir(parents=True, mode=0o700)
        config = directory / f"{name}.conf"
        config.write_text(
            json.dumps(
                {
                    "server_name": name,
                    "listen": f"127.0.0.1:{self.port}",
                    "http": f"127.0.0.1:{self.monitor_port}",
                    "jetstream": {
                        "store_dir": str(self.store),
                        "max_file_store": 20 << 30,
                        "max_memory_store": 64 << 20,
                    },
                    # Clients learn no further addresses, so they stay behind their proxies.
                    "cluster": {
                        "name": "judge",
                        "listen": f"127.0.0.1:{routes[number]}",
                        "no_advertise": True,
                        "routes": [f"nats://127.0.0.1:{port}" for port in routes],
                    },
                }
            )
        )
        binary = Path(sysconfig.get_path("scripts"), "nats-server")
        super().__init__(name, lambda: (str(binary), "-c", str(config)), {}, directory / f"{name}.log")

    async def healthy(self, http: aiohttp.ClientSession, patience_s: float = _START_S) -> None:
        """Wait until the server says that it is healthy, with all of its streams."""
        await _answers(http, f"http://127.0.0.1:{self.monitor_port}/healthz", patience_s)


class Installation:
    """The processes of an installation. `environ` holds the settings of its programs."""

    def __init__(self, directory: Path, http: aiohttp.ClientSession, *, ack_wait_s: float, version: Version) -> None:
        self.directory, self.http, self.version = directory, http, version
        ports = free_ports(11)
        self.servers = [Server(f"server{n}", directory, ports, ports[6:9], n) for n in range(3)]
        self.api_ports = ports[9:11]
        self.apis: list[Program] = []
        self.consumers: list[Program] = []
        self.small_store: Path | None = None
        """A store on a file system of its own, which can be filled."""
        self.clock = directory / "clock"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "ONEPROTECT_NATS_URL": ",".join(f"nats://127.0.0.1:{server.port}" for server in self.servers),
            "ONEPROTECT_NATS_REPLICAS": "3",
            "ONEPROTECT_SECRET_PROVIDER": "local",
            "ONEPROTECT_LOCAL_SECRETS_DIR": str(directory / "secrets"),
            "ONEPROTECT_SECRET_NAMESPACE": _NAMESPACE,
            "ONEPROTECT_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
            "ONEPROTECT_EGRESS_ALLOW_HTTP": "true",
            "ONEPROTECT_EGRESS_PORTS": "443,1024-65535",
            "ONEPROTECT_WORK_PER_DESTINATION": "20",
            "ONEPROTECT_WORK_PER_TENANT": "60",
            "ONEPROTECT_ACK_WAIT_S": f"{ack_wait_s:g}",
            "ONEPROTECT_STALL_TIMEOUT_S": f"{ack_wait_s * 0.8:g}",
            "ONEPROTECT_REQUEST_TIMEOUT_S": "5",
            "ONEPROTECT_DRAIN_TIMEOUT_S": "10",
            "ONEPROTECT_RETRY_AFTER_TIMEOUT_S": "1",
            "ONEPROTECT_RETRY_SCHEDULE_S": ",".join(f"{wait:g}" for wait in RETRY_SCHEDULE_S),
            "ONEPROTECT_LOG_LEVEL": "warning",
        }

    @property
    def programs(self) -> list[Program]:
        """All consumers and APIs."""
        return [*self.consumers, *self.apis]

    async def start(self, consumers: int, *, old: Version | None = None) -> None:
        """Start everything, with streams, tenants and a token; the second consumer may run an older version."""
        self._limit_store(self.servers[2])
        for tenant in TENANTS:
            self._write_secret(tenant)
        for server in self.servers:
            server.start()
        await asyncio.gather(*(server.healthy(self.http) for server in self.servers))
        await self.apply()
        token = json.loads(
            await self.command("token", "create", "--tenant", "*", "--role", "producer", "--role", "admin", "--json")
        )
        self.http.headers["Authorization"] = f"Bearer {token['token']}"
        self.apis = [await self._program(f"api{n}", "api") for n in range(2)]
        for api, port in zip(self.apis, self.api_ports, strict=True):
            api.environ["ONEPROTECT_API_PORT"] = str(port)
        self.consumers = [await self._program(f"consumer{n}", "consumer") for n in range(consumers)]
        self._move_clock_of(self.consumers[0])
        self.consumers[1].version = old or self.version
        for program in self.programs:
            program.start()
        for port in self.api_ports:
            await _answers(self.http, f"http://127.0.0.1:{port}/readyz", _START_S)
        for tenant in TENANTS:
            await self.put(tenant, "credentials/key", {"purpose": "webhook-signing", "secret_ref": _ref(tenant)})

    async def stop(self) -> None:
        """Kill everything."""
        for member in [*self.programs, *self.servers]:
            if member.process is not None:
                await member.kill()
        for program in self.programs:
            for proxy in program.proxies:
                await proxy.close()
        if self.small_store is not None:
            subprocess.run(["umount", "--lazy", self.small_store], check=False)  # noqa: ASYNC221 - a moment

    async def apply(self, version: Version | None = None) -> None:
        """Create or update the streams."""
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                await self.command("apply", version=version)
                return
            await asyncio.sleep(0.5)  # a new cluster has no leader yet
        await self.command("apply", version=version)

    async def command(self, *arguments: str, version: Version | None = None) -> bytes:
        """Run a command of the product, and return its output."""
        version = version or self.version
        process = await asyncio.create_subprocess_exec(
            *(str(version.python), "-m", "oneprotect", *arguments),
            cwd=version.checkout,
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"oneprotect {arguments[0]} failed: {errors.decode()}")
        return output

    async def put(self, tenant: str, path: str, body: dict[str, Any]) -> None:
        """Store a credential or a destination."""
        url = f"http://127.0.0.1:{self.api_ports[0]}/v1/tenants/{tenant}/{path}"
        async with self.http.put(url, json=body) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"PUT {path}: {answer.status} {await answer.text()}")

    def sender_of(self, port: int) -> str:
        """Return the consumer that has a local port, itself or by a child process."""
        socket = _socket_of(port)
        for consumer in self.consumers:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{consumer.pid}/task/{consumer.pid}/children").read_text()
                for pid in [consumer.pid, *map(int, children.split())]:
                    if _holds(pid, socket):
                        consumer.labels[pid] = consumer.label
                        return consumer.label
        return ""

    def label_of(self, worker: str) -> str:
        """Return the consumer that a result names by host, process id and a random part."""
        pid = int(worker.removesuffix("-isolated").split("-")[-2])
        return next((one.labels[pid] for one in self.consumers if pid in one.labels), worker)

    async def _program(self, name: str, kind: str) -> Program:
        proxies = [Proxy(server.port) for server in self.servers]
        urls = [f"nats://127.0.0.1:{await proxy.start()}" for proxy in proxies]
        state = self.directory / "state" / name
        state.mkdir(parents=True)
        program = Program(name, self, [kind], proxies, urls)
        program.environ["ONEPROTECT_STATE_DIR"] = str(state)
        return program

    def _move_clock_of(self, consumer: Program) -> None:
        if _FAKETIME is not None:
            self.clock.write_text("+0\n")
            consumer.environ |= {
                "LD_PRELOAD": str(_FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }

    @property
    def can_move_clock(self) -> bool:
        """True when libfaketime is installed."""
        return _FAKETIME is not None

    def _limit_store(self, server: Server) -> None:
        command = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(server.store)]
        if os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0:
            self.small_store = server.store

    def _write_secret(self, tenant: str) -> None:
        file = self.directory / "secrets" / _NAMESPACE / f"{tenant}-signing.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        key = b"whsec_" + base64.b64encode(secrets.token_bytes(32))
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {
                        "name": f"{tenant}-signing",
                        "namespace": _NAMESPACE,
                        "uid": tenant,
                        "resourceVersion": "1",
                        "labels": {"oneprotect.io/tenant": tenant, "oneprotect.io/purpose": "webhook-signing"},
                    },
                    "type": "Opaque",
                    "data": {"signing": base64.b64encode(key).decode()},
                }
            )
        )
        file.chmod(0o600)


def _ref(tenant: str) -> str:
    return f"k8s://{_NAMESPACE}/{tenant}-signing/signing"


async def _answers(http: aiohttp.ClientSession, url: str, patience_s: float) -> None:
    """Wait until a health check answers 200."""
    async with asyncio.timeout(patience_s):
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)


def _socket_of(port: int) -> str:
    """Return the name of the socket with a local port, as the file descriptors of its process show it."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}"):
            return f"socket:[{fields[9]}]"
    return ""


def _holds(pid: int, socket: str) -> bool:
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if file.readlink().name == socket:
                return True
    return False


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function that makes the kernel kill a child when its parent ends."""
    libc = ctypes.CDLL(None)

    def set_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal
