"""The machine's name service: `/etc/resolv.conf` and `/etc/hosts`, read again when they change."""

import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from msgspec import Struct

DNS_PORT: Final = 53
MAX_FILE_BYTES: Final = 1024 * 1024
"""Of a longer file the beginning counts."""
MAX_SERVERS: Final = 3
"""The limit of the C library."""
MAX_SEARCH_DOMAINS: Final = 32
MAX_ADDRESSES_PER_HOST: Final = 32

T = TypeVar("T")
SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class NameServer(Struct, frozen=True):
    """The socket address of a name server."""

    family: int
    address: SocketAddress


class DnsConfig(Struct, frozen=True):
    """The content of `resolv.conf` (see its manual page), with the defaults of the C library."""

    servers: tuple[NameServer, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 5
    attempts: int = 2
    rotate: bool = False
    tcp: bool = False


class SystemNames:
    """The configuration and the names of the two files.

    Args:
        servers: Name servers to use instead of those in `resolv_conf`, as address and port.
    """

    def __init__(
        self,
        *,
        servers: Sequence[tuple[str, int]] = (),
        resolv_conf: Path = Path("/etc/resolv.conf"),
        hosts: Path = Path("/etc/hosts"),
    ) -> None:
        given = tuple(name_server(*server) for server in servers)
        self._config = _WatchedFile(resolv_conf, lambda text: parse_resolv_conf(text, given))
        self._hosts = _WatchedFile(hosts, parse_hosts)

    def config(self) -> DnsConfig:
        """Return the configuration as it is now."""
        return self._config.read()

    def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a name in `hosts`."""
        return self._hosts.read().get(host, ())


class _WatchedFile(Generic[T]):
    """A parsed file. While it cannot be read, its last content counts."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._value = parse("")

    def read(self) -> T:
        try:
            stat = os.stat(self._path)  # noqa: PTH116  `Path.stat` costs three times as much
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                with self._path.open("rb") as file:
                    self._value = self._parse(file.read(MAX_FILE_BYTES).decode("utf-8", "replace"))
                self._seen = seen
        except OSError:
            pass
        return self._value


def name_server(host: str, port: int = DNS_PORT) -> NameServer:
    """Return the name server at an IP address, which may name an interface. Raises `ValueError`."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return NameServer(socket.AF_INET, (str(address), port))
    scope = address.scope_id
    try:
        index = 0 if scope is None else int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError:
        raise ValueError("an interface that does not exist") from None
    return NameServer(socket.AF_INET6, (host.partition("%")[0], port, 0, index))


def parse_resolv_conf(text: str, servers: tuple[NameServer, ...] = ()) -> DnsConfig:
    """Return the configuration in `text`. Lines and options that the C library does not know are skipped."""
    listed: list[NameServer] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        keyword, *values = line.split("#", 1)[0].split(";", 1)[0].split() or [""]
        if keyword == "nameserver" and values:
            listed += _known_servers(values[0])
        elif keyword in ("search", "domain"):
            search = tuple(value.strip(".").lower() for value in values)[:MAX_SEARCH_DOMAINS]
        elif keyword == "options":
            options |= {name: value for name, _, value in (option.partition(":") for option in values)}
    return DnsConfig(
        servers=servers or tuple(listed[:MAX_SERVERS]) or (name_server("127.0.0.1"),),
        search=tuple(domain for domain in search if domain),
        ndots=_number(options.get("ndots"), 1, 0, 15),
        timeout_s=_number(options.get("timeout"), 5, 1, 30),
        attempts=_number(options.get("attempts"), 2, 1, 5),
        rotate="rotate" in options,
        tcp="use-vc" in options,
    )


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name in `text`, in their order."""
    names: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *hosts = line.split("#", 1)[0].split() or [""]
        if hosts and is_address(address):
            for host in hosts:
                key = host.lower().rstrip(".")
                names[key] = (*names.get(key, ()), address)[:MAX_ADDRESSES_PER_HOST]
    return names


def _known_servers(text: str) -> list[NameServer]:
    try:
        return [name_server(text)]
    except ValueError:
        return []


def is_address(text: str) -> bool:
    """Return whether `text` is an IP address without a scope."""
    if "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _number(text: str | None, default: int, least: int, most: int) -> int:
    return min(max(int(text), least), most) if text and text.isdecimal() and len(text) < 10 else default
