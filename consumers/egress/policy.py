"""The egress guard: where deliveries may go. One policy, enforced three times.

1. `EgressPolicy.check_url`, when a destination is written and again before each attempt;
2. `EgressPolicy.guard_answers`, on every answer of the name service: one denied address refuses the name;
3. `EgressPolicy.guard_address`, on the address that is about to be connected to. It holds for addresses written in a
   URL, which no resolver ever sees, and for a name that means one thing when checked and another when used.

The sender connects to what was checked: scheme, host, port and path come from the `ValidatedUrl` that the check
returned, and the URL is parsed once.

A URL that does not parse is blocked. An error names the rule and repeats nothing of the URL: path and query are often
credentials, and some URLs contain passwords.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct

from consumers.egress.blocked_ranges import IPAddress, denied_range, embedded_ipv4, strip_ipv4_mapping

MAX_URL_LENGTH: Final = 2048
MAX_HOST_LENGTH: Final = 253
MAX_CACHED_URLS: Final = 4096

INTERNAL_DOMAINS: Final = (
    "example",
    "home.arpa",
    "internal",
    "invalid",
    "local",
    "localhost",
    "onion",
    "svc",
    "test",
)
"""Domains that lead inside a network, a cluster (`cluster.local`) or nowhere: RFC 6761, 6762, 7686, 8375, 9476."""

PortRange = tuple[int, int]
"""The first and the last port of a range, both in it."""
AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""What `socket.getaddrinfo` answers with: family, type, protocol, canonical name, socket address."""

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?P<fragment>#.*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]%]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


class EgressRule(StrEnum):
    """The rule that a blocked destination breaks; the value is the text for its author."""

    ADDRESS = "its address is in a blocked range"
    CHARACTERS = "a URL is ASCII, without spaces, control characters and backslashes"
    FORM = "it is not an absolute URL with a host"
    FRAGMENT = "a URL to deliver to has no fragment"
    HOST = "its host is neither a host name nor an address in its usual form"
    INTERNAL_NAME = "its host name is one for internal use"
    LENGTH = f"a URL has at most {MAX_URL_LENGTH} characters"
    PORT = "its port is not one of the allowed ports"
    RESOLVED = "its host name has an address in a blocked range"
    SCHEME = "its scheme is not allowed"
    USER_INFO = "a URL carries no user name or password"


class EgressBlocked(ValueError):
    """A URL or address that deliveries must not be sent to. The text names the rule and repeats nothing of the URL."""

    def __init__(self, rule: EgressRule, detail: str = "") -> None:
        super().__init__(f"blocked destination: {rule.value}" + (f" ({detail})" if detail else ""))
        self.rule = rule


class ConnectionBlocked(EgressBlocked, OSError):
    """A blocked address, found while connecting: there every failure is an `OSError`."""


class ValidatedUrl(Struct, frozen=True):
    """A URL that passed the policy, normalised. `host` may be reported."""

    scheme: str
    host: str
    port: int
    url: str
    head: bytes
    """Start of each request: request line, `host` and `accept-encoding: identity`."""
    address: AddrInfo | None
    """The address to connect to when `host` is an address; None for a name."""

    def __repr__(self) -> str:
        return f"ValidatedUrl({self.scheme}://{self.host}:{self.port})"


class EgressPolicy:
    """Which URLs and addresses deliveries may go to. Immutable.

    `allow_cidrs`: exceptions to the denied ranges. `ports`: single ones, and ranges as (first, last). `localhost` as a
    host name is allowed only while an exception holds a loopback address. An exception such as `64:ff9b::/96`, for
    clusters with DNS64, still has the IPv4 address inside checked. Raises `ValueError` for no network or no port.
    """

    __slots__ = ("_check", "_exceptions", "_ports", "_schemes")

    def __init__(
        self,
        *,
        allow_cidrs: Iterable[str | IPv4Network | IPv6Network] = (),
        allow_http: bool = False,
        ports: Iterable[int | PortRange] = (443,),
    ) -> None:
        self._exceptions = tuple(ip_network(cidr) for cidr in allow_cidrs)
        self._ports = tuple(_port_range(*((port, port) if isinstance(port, int) else port)) for port in ports)
        self._schemes = frozenset(_DEFAULT_PORTS) if allow_http else frozenset({"https"})
        self._check = lru_cache(maxsize=MAX_CACHED_URLS)(self._checked)

    def check_url(self, url: str) -> ValidatedUrl:
        """Return the checked `url`, from the cache if it was checked lately. Raises `EgressBlocked`."""
        return self._check(url)

    def is_allowed(self, address: str | IPAddress) -> bool:
        """Return True if a connection may go to `address`. An invalid address, or one with a scope id, is denied."""
        return self._denial(address) is None

    def guard_address(self, addr_info: AddrInfo) -> None:
        """Raise `ConnectionBlocked` unless a connection may go to `addr_info`."""
        if self._denies_socket_address(addr_info[4]):
            raise ConnectionBlocked(EgressRule.ADDRESS)

    def guard_socket(self, addr_info: AddrInfo) -> socket.socket:
        """Make the socket for a connection to `addr_info`, whose address is final. Raises `ConnectionBlocked`."""
        self.guard_address(addr_info)
        return socket.socket(*addr_info[:3])

    def guard_answers(self, host: str, answers: Sequence[AddrInfo]) -> list[AddrInfo]:
        """Return the answers for a host name if all of them are allowed. Raises `ConnectionBlocked`.

        The machine's own name is the exception: `localhost` is often both 127.0.0.1 and ::1 where only one is allowed.
        """
        allowed = [answer for answer in answers if not self._denies_socket_address(answer[4])]
        if len(allowed) < len(answers) and not (host == "localhost" and allowed):
            raise ConnectionBlocked(EgressRule.RESOLVED)
        return allowed

    def _checked(self, text: str) -> ValidatedUrl:
        scheme, authority, rest = _split(text)
        if scheme not in self._schemes:
            raise EgressBlocked(EgressRule.SCHEME)
        host, port = _host_and_port(authority, _DEFAULT_PORTS[scheme])
        if isinstance(host, str):
            self._check_name(host)
        elif denial := self._denial(host):
            raise EgressBlocked(EgressRule.ADDRESS, denial)
        if not any(first <= port <= last for first, last in self._ports):
            raise EgressBlocked(EgressRule.PORT)
        return _target(scheme, host, port, rest)

    def _check_name(self, name: str) -> None:
        if name == "localhost" and (self.is_allowed("127.0.0.1") or self.is_allowed("::1")):
            return
        if "." not in name or any(f".{name}".endswith(f".{domain}") for domain in INTERNAL_DOMAINS):
            raise EgressBlocked(EgressRule.INTERNAL_NAME)

    def _denies_socket_address(self, address: tuple[str | int | bytes, ...]) -> bool:
        host = address[0]
        scoped = len(address) == 4 and bool(address[3])
        return scoped or not isinstance(host, str) or not self.is_allowed(host)

    def _denial(self, address: str | IPAddress) -> str | None:
        try:
            parsed = ip_address(address)
        except ValueError:
            return "no address"
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            return "with a scope id"
        parsed = strip_ipv4_mapping(parsed)
        denied = denied_range(parsed)
        if denied is not None and not any(parsed in network for network in self._exceptions):
            return str(denied)
        return next(filter(None, map(self._denial, embedded_ipv4(parsed))), None)


def _port_range(first: int, last: int) -> PortRange:
    if not 1 <= first <= last <= 65535:
        raise ValueError("ports are from 1 to 65535, and a range goes from its lower to its higher one")
    return first, last


def _split(text: str) -> tuple[str, str, str]:
    """Return the scheme in lower case, the authority, and everything after it."""
    if len(text) > MAX_URL_LENGTH:
        raise EgressBlocked(EgressRule.LENGTH)
    if _UNFIT.search(text):
        raise EgressBlocked(EgressRule.CHARACTERS)
    found = _URL.fullmatch(text)
    if not found or not found["authority"]:
        raise EgressBlocked(EgressRule.FORM)
    if "@" in found["authority"]:
        raise EgressBlocked(EgressRule.USER_INFO)
    if found["fragment"] is not None:
        raise EgressBlocked(EgressRule.FRAGMENT)
    if not found["rest"].isascii():
        raise EgressBlocked(EgressRule.CHARACTERS)
    return found["scheme"].lower(), found["authority"], found["rest"]


def _host_and_port(authority: str, default_port: int) -> tuple[str | IPAddress, int]:
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        raise EgressBlocked(EgressRule.HOST)
    host = _ipv6(found["host"][1:-1]) if found["host"].startswith("[") else _name_or_ipv4(found["host"])
    return host, int(found["port"]) if found["port"] else default_port


def _ipv6(text: str) -> IPAddress:
    try:
        return strip_ipv4_mapping(IPv6Address(text))
    except ValueError:
        pass
    raise EgressBlocked(EgressRule.HOST)


def _name_or_ipv4(text: str) -> str | IPv4Address:
    """Return the host name in ASCII, lower case and without a last dot, or the IPv4 address in four decimals.

    A host that ends in a number is an address for HTTP clients, in any of its historical forms (WHATWG URL, section
    3.5). Those forms, and digits outside ASCII, serve to get past a check, and are refused.
    """
    name = text.lower() if text.isascii() else _idna(text)
    try:
        if _NUMBER.fullmatch(name) and text.isascii():
            return IPv4Address(name)
    except ValueError:
        pass
    name, dotted = name.removesuffix("."), name
    if _NUMBER.fullmatch(name) or not _NAME.fullmatch(dotted) or len(name) > MAX_HOST_LENGTH:
        raise EgressBlocked(EgressRule.HOST)
    return name


def _idna(text: str) -> str:
    """Return the name in ASCII (UTS 46, IDNA 2008). A character that the mapping drops is refused: it only deceives."""
    import idna

    try:
        if all(idna.uts46_remap(character, std3_rules=False) for character in text):
            return idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        pass
    raise EgressBlocked(EgressRule.HOST)


def _target(scheme: str, host: str | IPAddress, port: int, rest: str) -> ValidatedUrl:
    written = f"[{host}]" if isinstance(host, IPv6Address) else str(host)
    authority = written if port == _DEFAULT_PORTS[scheme] else f"{written}:{port}"
    path = rest if rest.startswith("/") else f"/{rest}"
    url = f"{scheme}://{authority}{path}"
    if len(url) > MAX_URL_LENGTH:
        raise EgressBlocked(EgressRule.LENGTH)
    head = f"POST {path} HTTP/1.1\r\nhost: {authority}\r\naccept-encoding: identity\r\n".encode("ascii")
    return ValidatedUrl(scheme, str(host), port, url, head, None if isinstance(host, str) else _addr_info(host, port))


def _addr_info(address: IPAddress, port: int) -> AddrInfo:
    if isinstance(address, IPv4Address):
        return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port))
    return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port, 0, 0))
