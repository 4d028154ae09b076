"""Headers of NATS messages: taken apart only when somebody asks for them, and put together at once.

A block of headers is `NATS/1.0`, perhaps a status and its description, and then a line for each header (ADR-4).
"""

import re
from collections.abc import Mapping
from typing import Final

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

_PLAIN: Final = re.compile(r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: (?:[!-~](?:[ -~]*[!-~])?)?\r\n)+")
"""Header lines that need no mending."""


def read_headers(block: bytes) -> dict[str, str]:
    """The headers of a block as it came; `CheckStatus` and `Description` are what its first line says beside the version."""
    first, _, lines = block.partition(b"\r\n")
    headers = read_lines(lines)
    status, _, description = first[len("NATS/1.0") :].strip().partition(b" ")
    if status:
        headers[STATUS] = status.decode("ascii", "replace")
        headers[DESCRIPTION] = description.decode("utf-8", "replace")
    return headers


def has_status(block: bytes) -> bool:
    """Whether it is the server itself that says something. A producer may well have a header of the name `CheckStatus`."""
    return block.startswith(b"NATS/1.0 ")


def read_lines(lines: bytes) -> dict[str, str]:
    """The headers of a block's lines. What is no header is passed over, as the client library does."""
    found: dict[str, str] = {}
    for line in lines.split(b"\r\n"):
        start, colon, value = line.partition(b":")
        if colon and start.isascii():
            name = start.strip().decode("ascii")
            if not name or name.split() == [name]:
                found[name] = value.strip().decode("utf-8", "replace")
    return found


def block_of(headers: Mapping[str, str]) -> bytes:
    """A block of `headers`, none of which has a line end in it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"NATS/1.0\r\n%b\r\n" % lines.encode("utf-8", "surrogatepass")


def encode_headers_unchecked(headers: Mapping[str, str]) -> bytes | None:
    """The same of headers from anywhere; None unless all of them, and there are some, are plain."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"NATS/1.0\r\n%b\r\n" % lines.encode() if _PLAIN.fullmatch(lines) else None
