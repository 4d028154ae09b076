"""OpenTelemetry's environment variables, except those that the SDK's exporters read themselves.

See https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. An invalid value stops the
process with an error that names the variable and not the value.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args
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

_SAMPLERS: Final[dict[str, Sampler]] = {name: name for name in get_args(Sampler)}
_INTERVAL_MS: Final = 60_000


class OtelError(ValueError):
    """An invalid variable. The text names the variable and the values that are allowed."""


class CollectorEndpoint(Struct, frozen=True):
    """The endpoint of a signal, as set in `variable`; `host` is None for a malformed URL."""

    signal: Literal["traces", "metrics"]
    variable: str
    host: str | None
    port: int


def read_endpoints(environ: Mapping[str, str]) -> tuple[CollectorEndpoint, ...]:
    """Return the endpoints of the exported signals. Raises `OtelError`, as `ExportSettings.read` does."""
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
    """Signals to export over OTLP, and the sampling of traces."""

    traces: bool = False
    metrics: bool = False
    sampler: Sampler = "parentbased_always_on"
    ratio: float = 1.0
    """Share of the deliveries without a trace of their own to sample; for the samplers with a ratio."""
    metrics_every_s: float = 60.0

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "ExportSettings":
        """Read `OTEL_*`. Nothing is exported without an endpoint or an exporter. Raises `OtelError`."""
        if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        traces, metrics = _wanted(environ, "TRACES"), _wanted(environ, "METRICS")
        if not (traces or metrics):
            return cls()
        for name in ("", "TRACES_", "METRICS_"):
            variable = f"OTEL_EXPORTER_OTLP_{name}PROTOCOL"
            if environ.get(variable, "http/protobuf") != "http/protobuf":
                raise OtelError(f"{variable}: expected `http/protobuf`, the only supported protocol")
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
        raise OtelError(
            f"{variable}: expected `otlp` or `none`; for Prometheus set ONEPROTECT_OPS_PORT and scrape /metrics"
        )
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
