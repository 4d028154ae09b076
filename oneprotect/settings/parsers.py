"""Parsers for the values of environment variables. Each describes what it accepts, and returns None for other text.

A parser strips and guesses nothing. It never raises, because a library's error message would repeat its input.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

MAX_WAITS: Final = 32
MAX_WAIT_S: Final = 259_200.0

PortRange = tuple[int, int]
"""First and last port, both included."""


class ValueParser(Struct, frozen=True):
    """A kind of value. `expectation` completes "expected ..."; `parse` returns None for any other text."""

    expectation: str
    parse: Callable[[str], Any]


_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_CIDR = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", re.ASCII)
_PORTS = re.compile(r"(?P<low>[0-9]{1,5})(-(?P<high>[0-9]{1,5}))?", re.ASCII)
_INBOX = re.compile(r"_INBOX[A-Za-z0-9_-]{0,90}", re.ASCII)
_NATS_URL = re.compile(
    r"(nats|tls|ws|wss)://((?P<host>[A-Za-z0-9.-]+)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{1,5}))?"
)
_WEB_URL = re.compile(
    r"(?:(?P<secure>https)|http)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
)
_LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})
_FLAGS: Final = {"true": True, "false": False, "1": True, "0": False}


def whole(least: int, most: int, *, unit: str = "") -> ValueParser:
    """Return a parser of whole numbers. Both bounds are included."""

    def parse(text: str) -> int | None:
        return value if _WHOLE.fullmatch(text) and least <= (value := int(text)) <= most else None

    return ValueParser(f"a whole number{unit and ' of ' + unit} from {least} to {most}", parse)


def number(least: float, most: float, *, unit: str = "", or_zero: bool = False) -> ValueParser:
    """Return a parser of decimal numbers. Both bounds are included. With `or_zero` 0 is valid, too."""

    def parse(text: str) -> float | None:
        value = float(text) if _NUMBER.fullmatch(text) else None
        is_valid = value is not None and (least <= value <= most or (or_zero and value == 0))
        return value if is_valid else None

    return ValueParser(f"{'0, or ' * or_zero}a number{unit and ' of ' + unit} from {least:g} to {most:g}", parse)


def one_of(*choices: str, ignore_case: bool = False) -> ValueParser:
    """Return a parser of fixed values. With `ignore_case`, capitals are accepted and the value is in lower case."""

    def parse(text: str) -> str | None:
        choice = text.lower() if ignore_case and text.isascii() else text
        return choice if choice in choices else None

    return ValueParser(", ".join(f"`{choice}`" for choice in choices[:-1]) + f" or `{choices[-1]}`", parse)


def list_of(rule: ValueParser, expectation: str, *, least: int = 0, most: int = 1024) -> ValueParser:
    """Return a parser of comma-separated values without spaces, as a tuple. With no minimum it accepts empty text."""

    def parse(text: str) -> tuple[Any, ...] | None:
        parts = text.split(",") if text else []
        values = tuple(rule.parse(part) for part in parts)
        return values if least <= len(values) <= most and None not in values else None

    return ValueParser(expectation, parse)


def _path(text: str) -> Path | None:
    return Path(text) if text and text == text.strip() and text.isprintable() else None


def _host(text: str) -> str | None:
    return text if len(text) <= 253 and (_HOST_NAME.fullmatch(text) or _address(text)) else None


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _host_port(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in bare) != (bare is not host) or not _host(bare) or not _WHOLE.fullmatch(port):
        return None
    return (bare, int(port)) if 1 <= int(port) <= 65_535 else None


def _name_server(text: str) -> tuple[str, int] | None:
    if (address := _address(text)) is not None:
        return address, 53
    found = _host_port(text)
    return found if found and _address(found[0]) else None


def _cidr(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text)) if _CIDR.fullmatch(text) else None
    except ValueError:
        return None


def _port_range(text: str) -> tuple[int, int] | None:
    found = _PORTS.fullmatch(text)
    if not found:
        return None
    low, high = int(found["low"]), int(found["high"] or found["low"])
    return (low, high) if 1 <= low <= high <= 65_535 else None


def _nats_url(text: str) -> str | None:
    found = _NATS_URL.fullmatch(text)
    if not found or not (_host(found["host"]) if found["host"] else _address(found["ipv6"])):
        return None
    return text if found["port"] is None or 1 <= int(found["port"]) <= 65_535 else None


def _web_url(text: str) -> str | None:
    found = _WEB_URL.fullmatch(text)
    return text if found and len(text) <= 1024 and (found["secure"] or found["host"] in _LOOPBACK) else None


_WAIT: Final = number(0, MAX_WAIT_S)

_NATS_URLS: Final = list_of(ValueParser("", _nats_url), "", least=1, most=16)

FLAG: Final = ValueParser("`true` or `false`, or `1` or `0`", _FLAGS.get)
FILE: Final = ValueParser("the path of a file or directory", _path)
HOST_PORT: Final = ValueParser(
    "a host and a port, for example `proxy.example.com:4750` or `[fd00::1]:4750`", _host_port
)
NAME_SERVERS: Final = list_of(
    ValueParser("", _name_server),
    "1 to 3 comma-separated IP addresses without spaces, each optionally with a port, for example `10.0.0.10` or "
    "`[fd00::10]:5353`",
    least=1,
    most=3,
)
HOST: Final = ValueParser("an IP address or a host name", _host)
NAMESPACE: Final = ValueParser("a namespace (a DNS label)", lambda text: text if _LABEL.fullmatch(text) else None)
NAMESPACES: Final = list_of(NAMESPACE, "comma-separated namespaces (DNS labels) without spaces")
CIDRS: Final = list_of(
    ValueParser("", _cidr),
    "comma-separated CIDR ranges without spaces (host bits must be zero), for example `10.1.0.0/16`",
)
PORTS: Final = list_of(
    ValueParser("", _port_range),
    "comma-separated ports or port ranges without spaces, for example `443,8000-8999`",
    least=1,
)
WAITS: Final = list_of(
    ValueParser("", lambda text: _WAIT.parse(text) or None),
    f"1 to {MAX_WAITS} comma-separated waits in seconds without spaces, each above 0 and at most {MAX_WAIT_S:g}",
    least=1,
    most=MAX_WAITS,
)
INBOX: Final = ValueParser(
    "`_INBOX`, optionally followed by letters, digits, `-` and `_`, for example `_INBOX_consumer`",
    lambda text: text if _INBOX.fullmatch(text) else None,
)
NATS_URL: Final = ValueParser(
    "comma-separated URLs (`nats://`, `tls://`, `ws://` or `wss://`, a host, optionally a port) without a user or "
    "password (set ONEPROTECT_NATS_CREDS_FILE or ONEPROTECT_NATS_NKEY_FILE to a file with credentials)",
    lambda text: text if _NATS_URLS.parse(text) else None,
)
WEB_URL: Final = ValueParser(
    "an `https://` URL (`http://` on loopback) without a user, query or fragment",
    _web_url,
)
TEXT: Final = ValueParser(
    "1 to 256 printable ASCII characters without spaces",
    lambda text: text if re.fullmatch(r"[!-~]{1,256}", text) else None,
)
ALGORITHMS: Final = list_of(
    one_of("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
    "comma-separated asymmetric JWT algorithms without spaces: RS, PS or ES with 256, 384 or 512, or EdDSA",
    least=1,
)
