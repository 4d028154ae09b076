"""The W3C `traceparent` header (https://www.w3.org/TR/trace-context/) and the sampling of traces."""

import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from telemetry.otlp.settings import ExportSettings

HEADER: Final = "traceparent"

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "producer", "consumer"]
"""Kind of a span, as in OpenTelemetry."""

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
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
        found = _FORM.fullmatch(header) if header else None
        if found is None:
            return None
        trace_id, span_id = int(found[1], 16), int(found[2], 16)
        return cls(trace_id, span_id, found[3][1] in _ODD) if trace_id and span_id else None

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
