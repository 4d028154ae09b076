"""Header blocks of NATS messages, decoded only on demand.

A block is `NATS/1.0`, optionally a status and its description, and then a line for each header (ADR-4).
"""

import re
from collections.abc import Mapping
from typing import Final

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

_PLAIN: Final = re.compile(r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: (?:[!-~](?:[ -~]*[!-~])?)?\r\n)+")
"""Header lines that need no escaping or checks."""


def read_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a block, with the status of its first line as `Status` and `Description`."""
    first, _, lines = block.partition(b"\r\n")
    headers = read_lines(lines)
    status, _, description = first[len("NATS/1.0") :].strip().partition(b" ")
    if status:
        headers[STATUS] = status.decode("ascii", "replace")
        headers[DESCRIPTION] = description.decode("utf-8", "replace")
    return headers


def has_status(block: bytes) -> bool:
    """Return true if the block has a status of the server. A producer may send a header named `Status`, too."""
    return block.startswith(b"NATS/1.0 ")


def read_lines(lines: bytes) -> dict[str, str]:
    """Return the headers in the lines of a block; like the client library, skip malformed lines."""
    found: dict[str, str] = {}
    for line in lines.split(b"\r\n"):
        start, colon, value = line.partition(b":")
        if colon and start.isascii():
            name = start.strip().decode("ascii")
            if not name or name.split() == [name]:
                found[name] = value.strip().decode("utf-8", "replace")
    return found


def block_of(headers: Mapping[str, str]) -> bytes:
    """Encode headers. None of them may contain a line end."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"NATS/1.0\r\n%b\r\n" % lines.encode("utf-8", "surrogatepass")


def encode_headers_unchecked(headers: Mapping[str, str]) -> bytes | None:
    """Encode headers from any source; return None if there are none, or if one needs escaping or checks."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"NATS/1.0\r\n%b\r\n" % lines.encode() if _PLAIN.fullmatch(lines) else None
