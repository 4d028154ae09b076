"""OpenTelemetry's own variables, as far as it is ours to follow them; the SDK's exporters read the rest themselves.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ - and as with our own settings, a
value that can't be followed stops the process, by the variable's name and without the value.
"""

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]

_SAMPLERS: Final[dict[str, Sampler]] = {
    "always_on": "always_on",
    "always_off": "always_off",
    "traceidratio": "traceidratio",
    "parentbased_always_on": "parentbased_always_on",
    "parentbased_always_off": "parentbased_always_off",
    "parentbased_traceidratio": "parentbased_traceidratio",
}
_INTERVAL_MS: Final = 60_000


class OtelError(ValueError):
    """A variable says what can't be done. Its text names the variable, and what it may hold."""


class CollectorEndpoint(Struct, frozen=True):
    """Where a signal goes, as `variable` says it; `host` is None when that holds no URL."""

    signal: Literal["traces", "metrics"]
    variable: str
    host: str | None
    port: int


def read_endpoints(environ: Mapping[str, str]) -> tuple[CollectorEndpoint, ...]:
    """Where signals go, of those that are exported. Raises `OtelError` as `ExportSettings.read` does."""
    export = ExportSettings.read(environ)
    wanted: list[Literal["traces", "metrics"]] = []
    if export.traces:
        wanted.append("traces")
    if export.metrics:
        wanted.append("metrics")
    return tuple(_collector(environ, signal) for signal in wanted)


def _collector(environ: Mapping[str, str], signal: Literal["traces", "metrics"]) -> CollectorEndpoint:
    own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    variable = own if environ.get(own) else common
    try:
        parts = urlsplit(environ.get(variable) or "http://localhost:4318")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return CollectorEndpoint(signal, variable, None, 0)
    return CollectorEndpoint(signal, variable, parts.hostname, port)


class ExportSettings(Struct, frozen=True):
    """What is exported over OTLP, and how traces are chosen."""

    traces: bool = False
    metrics: bool = False
    sampler: Sampler = "parentbased_always_on"
    ratio: float = 1.0
    """Of deliveries that come without a trace of their own; only the samplers with a ratio use it."""
    metrics_every_s: float = 60.0

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "ExportSettings":
        """What `OTEL_*` say. Nothing is exported unless they name an endpoint or an exporter. Raises `OtelError`."""
        if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        traces, metrics = _wanted(environ, "TRACES"), _wanted(environ, "METRICS")
        if not (traces or metrics):
            return cls()
        for name in ("", "TRACES_", "METRICS_"):
            variable = f"OTEL_EXPORTER_OTLP_{name}PROTOCOL"
            if environ.get(variable, "http/protobuf") != "http/protobuf":
                raise OtelError(f"{variable}: expected `http/protobuf`, which is what is spoken here; or unset it")
        sampler = _SAMPLERS.get(environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on")
        if sampler is None:
            raise OtelError(f"OTEL_TRACES_SAMPLER: expected {' or '.join(f'`{name}`' for name in _SAMPLERS)}")
        ratio = _number(environ, "OTEL_TRACES_SAMPLER_ARG", 1.0, most=1.0) if sampler.endswith("ratio") else 1.0
        every_ms = _number(environ, "OTEL_METRIC_EXPORT_INTERVAL", _INTERVAL_MS, least=100.0, most=86_400_000.0)
        return cls(traces=traces, metrics=metrics, sampler=sampler, ratio=ratio, metrics_every_s=every_ms / 1000)


def _wanted(environ: Mapping[str, str], signal: str) -> bool:
    variable = f"OTEL_{signal}_EXPORTER"
    exporter = environ.get(variable) or None
    if exporter not in (None, "otlp", "none"):
        raise OtelError(f"{variable}: expected `otlp` or `none`; Prometheus reads /metrics, see ONEPROTECT_OPS_PORT")
    if exporter is not None:
        return exporter == "otlp"
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", f"{signal}_"))


def _number(
    environ: Mapping[str, str], variable: str, default: float, *, least: float = 0.0, most: float = 1.0
) -> float:
    text = environ.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise OtelError(f"{variable}: expected a number from {least:g} to {most:g}")
    return value
