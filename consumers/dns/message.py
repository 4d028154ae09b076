"""DNS messages (RFC 1035): queries for addresses, and the answers that count.

The owner of a name chooses what its servers answer. The size, the records and the aliases of an answer are bounded.
"""

import socket
import struct
from typing import Final, Literal

from msgspec import Struct

A: Final = 1
CNAME: Final = 5
AAAA: Final = 28
AddressType = Literal[1, 28]

NO_ERROR: Final = 0
NO_SUCH_NAME: Final = 3
_REFUSALS: Final = frozenset({1, 2, 4, 5})
"""FORMERR, SERVFAIL, NOTIMP and REFUSED: a server may send them without the question."""

MAX_NAME_BYTES: Final = 255
MAX_MESSAGE_BYTES: Final = 16 * 1024
MAX_RECORDS: Final = 128
MAX_ALIASES: Final = 16
MAX_ADDRESSES: Final = 32
MAX_LABELS: Final = 2048
"""Labels and pointers that all names of an answer have together: pointers can repeat a long name in each record."""

_HEADER: Final = struct.Struct(">HHHHHH")
_RECORD: Final = struct.Struct(">HHIH")
_TYPE_AND_CLASS: Final = struct.Struct(">HH")
_INTERNET: Final = 1
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_MAX_TTL_S: Final = 2**31 - 1
_LAYOUTS: Final = {A: (4, socket.AF_INET), AAAA: (16, socket.AF_INET6)}


class DnsAnswer(Struct, frozen=True):
    """A server's answer. `addresses` is empty when the name has none of the queried type."""

    code: int
    is_truncated: bool = False
    addresses: tuple[str, ...] = ()
    ttl_s: int = 0


class MalformedAnswer(ValueError):
    """An answer that breaks the format."""


def encode_query(query_id: int, name: str, record_type: AddressType) -> bytes:
    """Return a query for the addresses of `name`, a host name in ASCII. Raises `ValueError` when it is too long."""
    labels = [label.encode("ascii") for label in name.lower().split(".")]
    if not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError("a label of a host name has 1 to 63 characters")
    encoded = b"".join([bytes([len(label)]) + label for label in labels]) + b"\0"
    if len(encoded) > MAX_NAME_BYTES:
        raise ValueError("a host name has at most 253 characters")
    return (
        _HEADER.pack(query_id, _RECURSION_DESIRED, 1, 0, 0, 0) + encoded + _TYPE_AND_CLASS.pack(record_type, _INTERNET)
    )


def decode_answer(message: bytes, query: bytes) -> DnsAnswer | None:
    """Return the answer to `query`, or None when `message` answers another one. Raises `MalformedAnswer`."""
    if len(message) < _HEADER.size:
        return None
    query_id, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if query_id != int.from_bytes(query[:2], "big") or not flags & _RESPONSE or flags & _OPCODE:
        return None
    code, question = flags & 0xF, query[_HEADER.size :]
    if questions == 0 and code in _REFUSALS:
        return DnsAnswer(code)
    after = _HEADER.size + len(question)
    if questions != 1 or message[_HEADER.size : after].lower() != question.lower():
        return None
    if flags & _TRUNCATED or code != NO_ERROR:
        return DnsAnswer(code, bool(flags & _TRUNCATED))
    if len(message) > MAX_MESSAGE_BYTES:
        raise MalformedAnswer
    try:
        return _follow_aliases(message, after, answers, question)
    except (IndexError, struct.error):
        pass
    raise MalformedAnswer


def _follow_aliases(message: bytes, offset: int, count: int, question: bytes) -> DnsAnswer:
    """Return the addresses of the last name in the chain of aliases, and the smallest lifetime in the chain."""
    wanted, _ = _TYPE_AND_CLASS.unpack(question[-_TYPE_AND_CLASS.size :])
    aliases, addresses = _read_records(message, offset, min(count, MAX_RECORDS), wanted)
    name, ttl_s = question[: -_TYPE_AND_CLASS.size].lower(), _MAX_TTL_S
    for _ in range(MAX_ALIASES):
        if name in addresses:
            found = addresses[name][:MAX_ADDRESSES]
            return DnsAnswer(
                NO_ERROR,
                addresses=tuple(dict.fromkeys(address for address, _ in found)),
                ttl_s=min(ttl_s, *(lifetime for _, lifetime in found)),
            )
        if name not in aliases:
            break
        name, lifetime = aliases[name]
        ttl_s = min(ttl_s, lifetime)
    return DnsAnswer(NO_ERROR)


def _read_records(
    message: bytes, offset: int, count: int, wanted: int
) -> tuple[dict[bytes, tuple[bytes, int]], dict[bytes, list[tuple[str, int]]]]:
    """Return the aliases and the addresses of type `wanted` by owner, each with its lifetime."""
    aliases: dict[bytes, tuple[bytes, int]] = {}
    addresses: dict[bytes, list[tuple[str, int]]] = {}
    size, family = _LAYOUTS[wanted]
    names = _NameReader(message)
    for _ in range(count):
        owner, offset = names.read(offset)
        record_type, record_class, ttl_s, length = _RECORD.unpack_from(message, offset)
        offset += _RECORD.size
        end = offset + length
        if end > len(message):
            raise MalformedAnswer
        ttl_s = ttl_s if ttl_s <= _MAX_TTL_S else 0  # RFC 2181, section 8
        if record_class == _INTERNET and record_type == CNAME:
            aliases.setdefault(owner, (names.read(offset)[0], ttl_s))
        elif record_class == _INTERNET and record_type == wanted:
            if length != size:
                raise MalformedAnswer
            addresses.setdefault(owner, []).append((socket.inet_ntop(family, message[offset:end]), ttl_s))
        offset = end
    return aliases, addresses


class _NameReader:
    """Reads the names in one answer."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._left = MAX_LABELS

    def read(self, offset: int) -> tuple[bytes, int]:
        """Return a name in lower case, in its encoding without compression, and the offset after it.

        Each pointer leads further back than the one before, so no name is a loop.
        """
        message = self._message
        labels: list[bytes] = []
        end, lowest, size = 0, offset, 1
        while length := message[offset]:
            self._left -= 1
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | message[offset + 1]
                if target >= lowest or not self._left:
                    raise MalformedAnswer
                end = end or offset + 2
                offset = lowest = target
                continue
            size += length + 1
            if length > 63 or size > MAX_NAME_BYTES or not self._left:
                raise MalformedAnswer
            labels.append(message[offset : offset + 1 + length])
            offset += 1 + length
        return b"".join(labels).lower() + b"\0", end or offset + 1
