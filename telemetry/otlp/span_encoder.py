"""Spans encoded for OTLP: https://github.com/open-telemetry/opentelemetry-proto, trace/v1/trace.proto.

The SDK creates an object for each span, attribute and value, and copies all of them into messages, which is too slow
for the hot path. Here a span is encoded directly. Attributes repeat, so their encodings are cached.
"""

import functools
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from telemetry.otlp.trace_context import Attributes, Kind, TraceContext

_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_UNIQUE: Final = frozenset({"messaging.message.id"})
"""Attributes with unique values, which are not cached."""
_TIMES: Final = struct.Struct("<cQcQ")
_DOUBLE: Final = struct.Struct("<cd")
_LOCAL_PARENT, _REMOTE_PARENT = (b"\x85\x01" + struct.pack("<I", flags) for flags in (0x101, 0x301))
_ERROR: Final = b"z\x02\x18\x02"

Value = str | int | float | bool


def span_bytes(
    name: str,
    parent: TraceContext,
    span_id: int,
    *,
    kind: Kind,
    start_ns: int,
    end_ns: int,
    attributes: Attributes,
    error: str | None,
) -> bytes:
    """Encode a `Span` below `parent`. Times are in unix nanoseconds; `error` is the code of a failure."""
    parts = [
        b"\n\x10",
        parent.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        span_id.to_bytes(8, "big"),
        _named(name, kind),
        _TIMES.pack(b"9", start_ns, b"A", max(start_ns, end_ns)),
    ]
    if parent.span_id:
        parts += (b'"\x08', parent.span_id.to_bytes(8, "big"))
    for key, value in attributes.items():
        parts.append(_attribute(key, value) if key in _UNIQUE else _known_attribute(key, value))
    if error is not None:
        parts += (_known_attribute("error.type", error), _ERROR)
    parts.append(_LOCAL_PARENT if parent.is_local else _REMOTE_PARENT)
    return b"".join(parts)


def request_start(resource: Mapping[str, object], scope: str, version: str) -> tuple[bytes, bytes]:
    """Encode a `Resource` and an `InstrumentationScope`, for `request_bytes`."""
    attributes = b"".join(_field(b"\n", _key_value(key, str(value))) for key, value in resource.items())
    named = _field(b"\n", scope.encode()) + _field(b"\x12", version.encode())
    return _field(b"\n", attributes), _field(b"\n", named)


def request_bytes(start: tuple[bytes, bytes], spans: Iterable[bytes]) -> bytes:
    """Encode an `ExportTraceServiceRequest` with all of `spans`."""
    resource, scope = start
    of_scope = scope + b"".join(_field(b"\x12", span) for span in spans)
    return _field(b"\n", resource + _field(b"\x12", of_scope))


@functools.lru_cache(maxsize=256)
def _named(name: str, kind: Kind) -> bytes:
    return _field(b"*", name.encode()) + b"0" + bytes([_KINDS[kind]])


def _attribute(key: str, value: Value) -> bytes:
    return _field(b"J", _key_value(key, value))


_known_attribute = functools.lru_cache(maxsize=8192, typed=True)(_attribute)


def _key_value(key: str, value: Value) -> bytes:
    return _field(b"\n", key.encode()) + _field(b"\x12", _any_value(value))


def _any_value(value: Value) -> bytes:
    if isinstance(value, str):
        return _field(b"\n", value.encode(errors="replace"))
    if isinstance(value, bool):
        return b"\x10" + bytes([value])
    if isinstance(value, int):
        return b"\x18" + _varint(value % 2**64)
    return _DOUBLE.pack(b"!", value)


def _field(tag: bytes, body: bytes) -> bytes:
    size = len(body)
    return tag + (bytes((size,)) if size < 128 else _varint(size)) + body


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
