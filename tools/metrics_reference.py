"""The reference of metrics, `docs/reference/metrics.md`, generated from the catalogue."""

from typing import Final

from telemetry.metrics.definitions import CATALOGUE

_HEAD: Final = """\
# Metrics

Prometheus text at `/metrics`, and OTLP. [Monitor](../how-to/monitor.md) explains how to collect them.

- Counters and histograms belong to one process: sum them over processes.
- Every consumer reports the same backlog. Use the maximum, never the sum, of `oneprotect_stream_*`,
  `oneprotect_consumer_*`, `oneprotect_schedules_*`, `oneprotect_replay*`, `oneprotect_jetstream_*` and
  `oneprotect_credentials`.
- Consumers sample the backlog every 10 seconds, and storage, schedules and replays every minute.
- Histograms have `_bucket`, `_sum` and `_count`.
- The `tenant` label exists only with `ONEPROTECT_METRICS_TENANTS_MAX` above 0. It adds about 50 series per tenant and
  process. Tenants beyond the maximum count as `other`.
- `oneprotect_supervised_*` come from the `/metrics` of `consumer --processes` only, not over OTLP.
- `oneprotect_http_*` come from the API.

This page is generated: `make generate`.

| metric | kind | labels | description |
|---|---|---|---|
"""


def page() -> str:
    """Return the page, in Markdown."""
    rows = (
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for metric in CATALOGUE.values()
    )
    return _HEAD + "".join(rows)
