"""The Prometheus text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from telemetry.metrics.definitions import CATALOGUE, MetricDefinition
from telemetry.metrics.registry import Labels, LatencySnapshot, MetricSnapshot, with_former_names

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def render(snapshot: MetricSnapshot) -> bytes:
    """Return the body of `GET /metrics`: metrics in the order of the catalogue, with sorted series."""
    snapshot = with_former_names(snapshot)
    lines: dict[str, list[str]] = {}
    for (name, labels), value in sorted(snapshot.values.items()):
        lines.setdefault(name, []).append(f"{name}{_braced(labels)} {_number(value)}")
    for (name, labels), latency in sorted(snapshot.latencies.items(), key=lambda item: item[0]):
        lines.setdefault(name, []).extend(_histogram(CATALOGUE[name], labels, latency))
    text = [line for name, metric in CATALOGUE.items() if name in lines for line in (*_head(metric), *lines[name])]
    return ("\n".join(text) + "\n").encode()


def _head(metric: MetricDefinition) -> tuple[str, str]:
    return f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"


def _histogram(metric: MetricDefinition, labels: Labels, latency: LatencySnapshot) -> Iterator[str]:
    bounds = (*map(_number, metric.bounds_s), "+Inf")
    for bound, count in zip(bounds, accumulate(latency.buckets), strict=True):
        yield f"{metric.name}_bucket{_braced((*labels, ('le', bound)))} {count}"
    yield f"{metric.name}_sum{_braced(labels)} {_number(latency.sum_s)}"
    yield f"{metric.name}_count{_braced(labels)} {latency.count}"


def _braced(labels: Labels) -> str:
    inside = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
