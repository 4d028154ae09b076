"""What an environment variable may hold: each rule says it in words, and parses the text or gives None.

Text is taken as it is: nothing is stripped or guessed. A rule never raises, as a foreign error repeats its input.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

MAX_WAITS: Final = 32
MAX_WAIT_S: Final = 259_200.0


class ValueParser(Struct, frozen=True):
    """A kind of value: in words, after "expected", and as a function that gives None for anything else."""

    says: str
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


def whole(least: int, most: int) -> ValueParser:
    """A whole number, the bounds in it."""

    def parse(text: str) -> int | None:
        return value if _WHOLE.fullmatch(text) and least <= (value := int(text)) <= most else None

    return ValueParser(f"a whole number from {least} to {most}", parse)


def number(least: float, most: float, *, unit: str = "") -> ValueParser:
    """A decimal number, the bounds in it."""

    def parse(text: str) -> float | None:
        return value if _NUMBER.fullmatch(text) and least <= (value := float(text)) <= most else None

    return ValueParser(f"a number{unit and ' of ' + unit} from {least:g} to {most:g}", parse)


def one_of(*words: str, ignore_case: bool = False) -> ValueParser:
    """One of some words. With `ignore_case` it may be in capitals; the value never is."""

    def parse(text: str) -> str | None:
        word = text.lower() if ignore_case and text.isascii() else text
        return word if word in words else None

    return ValueParser(", ".join(f"`{word}`" for word in words[:-1]) + f" or `{words[-1]}`", parse)


def listed(rule: ValueParser, says: str, *, least: int = 0, most: int = 1024) -> ValueParser:
    """Values joined by commas, without blanks, as a tuple. Without a minimum the text may be empty."""

    def parse(text: str) -> tuple[Any, ...] | None:
        parts = text.split(",") if text else []
        values = tuple(rule.parse(part) for part in parts)
        return values if least <= len(values) <= most and None not in values else None

    return ValueParser(says, parse)


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

_NATS_URLS: Final = listed(ValueParser("", _nats_url), "", least=1, most=16)

FLAG: Final = ValueParser("`true` or `false` (or `1` or `0`)", _FLAGS.get)
FILE: Final = ValueParser("a path", _path)
HOST_PORT: Final = ValueParser("a host and a port, like `proxy.example.com:4750` or `[fd00::1]:4750`", _host_port)
HOST: Final = ValueParser("an address or a host name", _host)
NAMESPACE: Final = ValueParser("a namespace (a DNS label)", lambda text: text if _LABEL.fullmatch(text) else None)
NAMESPACES: Final = listed(NAMESPACE, "namespaces (DNS labels) joined by commas, without blanks")
CIDRS: Final = listed(
    ValueParser("", _cidr),
    "networks like `10.1.0.0/16` joined by commas, without blanks and without bits beside the prefix",
)
PORTS: Final = listed(ValueParser("", _port_range), "ports or ranges like `443,8000-8999`, without blanks", least=1)
WAITS: Final = listed(
    ValueParser("", lambda text: _WAIT.parse(text) or None),
    f"1 to {MAX_WAITS} waits in seconds, each more than 0 and at most {MAX_WAIT_S:g}, joined by commas, without blanks",
    least=1,
    most=MAX_WAITS,
)
INBOX: Final = ValueParser(
    "`_INBOX`, and maybe letters, digits, `-` and `_` after it, like `_INBOX_consumer`",
    lambda text: text if _INBOX.fullmatch(text) else None,
)
NATS_URL: Final = ValueParser(
    "`nats://`, `tls://`, `ws://` or `wss://` with a host and maybe a port, several joined by commas, "
    "and no user or password in them: "
    "credentials come as a file, ONEPROTECT_NATS_CREDS_FILE or ONEPROTECT_NATS_NKEY_FILE",
    lambda text: text if _NATS_URLS.parse(text) else None,
)
WEB_URL: Final = ValueParser(
    "an `https://` URL (`http://` on loopback) without user, query and fragment",
    _web_url,
)
WORD: Final = ValueParser(
    "1 to 256 printable ASCII characters without blanks",
    lambda text: text if re.fullmatch(r"[!-~]{1,256}", text) else None,
)
ALGORITHMS: Final = listed(
    one_of("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
    "asymmetric JWT algorithms (RS, PS or ES with 256, 384 or 512; EdDSA) joined by commas, without blanks",
    least=1,
)
