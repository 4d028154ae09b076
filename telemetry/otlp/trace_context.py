"""The W3C `traceparent` header (https://www.w3.org/TR/trace-context/) and the sampling of traces."""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from schemas.headers import read_trace
from telemetry.otlp.settings import ExportSettings

HEADER: Final = "traceparent"

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "producer", "consumer"]
"""Kind of a span, as in OpenTelemetry."""

_ODD: Final = frozenset("13579bdf")
_RANGE: Final = 2**32


class TraceContext(Struct, frozen=True, gc=False):
    """The parent of a span: trace, span (0: none) and the sampling flag of the caller.

    `is_local`: this process created the parent span.
    """

    trace_id: int
    span_id: int
    sampled: bool
    is_local: bool = False

    @classmethod
    def read(cls, header: str | None) -> "TraceContext | None":
        """Return the context in `header`, or None when it is absent or malformed."""
        parts = read_trace(header) if header else None
        if parts is None:
            return None
        trace, span, flags = parts
        return cls(int(trace, 16), int(span, 16), flags[1] in _ODD)

    @classmethod
    def of_key(cls, key: str) -> "TraceContext":
        """Return the trace of a delivery without a `traceparent`: equal for all attempts, on every worker."""
        digest = hashlib.sha256(key.encode()).digest()
        return cls(int.from_bytes(digest[:16], "big") or 1, 0, sampled=True)

    def header(self, span_id: int) -> str:
        """Return the header for requests of the span `span_id`."""
        return f"00-{self.trace_id:032x}-{span_id:016x}-{self.sampled:02x}"


class TraceSampler:
    """Decides which deliveries are traced.

    The `parentbased_` samplers follow the caller's flag. Without a flag a hash of the delivery decides, so that all
    attempts of a delivery share one decision and one trace.
    """

    __slots__ = ("_below", "_by_parent", "is_off")

    def __init__(self, export: ExportSettings) -> None:
        ratio = {"always_on": 1.0, "always_off": 0.0}.get(export.sampler.removeprefix("parentbased_"), export.ratio)
        self._below = int(ratio * _RANGE)
        self._by_parent = export.sampler.startswith("parentbased_")
        self.is_off = not export.traces or export.sampler == "always_off"
        """True if no attempt is ever traced, not even a failed one."""

    def samples(self, header: str | None, key: str) -> bool:
        """Return true if the delivery `key` with this `traceparent` header is traced."""
        if header and self._by_parent and len(header) >= 55:
            return header[54] in _ODD
        return self._below == _RANGE or (self._below > 0 and zlib.crc32(key.encode()) < self._below)
