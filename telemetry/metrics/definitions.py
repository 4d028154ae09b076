"""The catalogue of metrics: name, kind, labels and meaning.

`/metrics`, OTLP and `docs/reference/metrics.md` are generated from it. The dashboard and the alerts are checked
against it.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

SHORT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Inclusive upper bounds of the buckets for a single attempt, in seconds."""
LONG_S: Final = (*SHORT_S, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""Upper bounds for several attempts: the default retry schedule takes 28 hours."""

Kind = Literal["counter", "gauge", "histogram"]


class MetricDefinition(Struct, frozen=True):
    """A metric. The name of a counter ends in `_total`; any other name ends in the unit, if there is one."""

    name: str
    kind: Kind
    help: str
    labels: Annotated[tuple[str, ...], Meta(description="`tenant` only with ONEPROTECT_METRICS_TENANTS_MAX.")]
    bounds_s: tuple[float, ...] = ()
    former_name: Annotated[str, Meta(description="Name under which one more release exports the metric too.")] = ""


def _counter(name: str, text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str, former_name: str = "") -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}", "gauge", text, labels, former_name=former_name)


def _histogram(
    name: str, text: str, *labels: str, bounds_s: tuple[float, ...], former_name: str = ""
) -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}_seconds", "histogram", text, labels, bounds_s, former_name)


ATTEMPTS: Final = _counter("attempts", "Attempts that ended.", "outcome", "code", "tenant")
DELIVERIES: Final = _counter("deliveries", "Deliveries that were delivered, failed or skipped.", "outcome", "tenant")
SUPPRESSED: Final = _counter(
    "duplicates_suppressed", "Redelivered messages whose result was already recorded; nothing was sent."
)
REPEATED_ATTEMPTS: Final = _counter(
    "repeated_attempts", "Attempts that were made twice: another consumer had recorded a result of the attempt."
)
REPEATED_IDS: Final = _counter("repeated_ids", "Messages that were not sent: a producer had used their id before.")
BLOCKED: Final = _counter("egress_blocked", "Attempts that the egress policy blocked before anything was sent.")
REPLAYED: Final = _counter("replayed_attempts", "Attempts that a replay requested.", "outcome")
DEFERRALS: Final = _counter("deferrals", "Requests deferred without an attempt because of an open circuit breaker.")
QUARANTINED: Final = _counter("quarantined", "Messages moved to quarantine.", "code")
CRASHES: Final = _counter("handler_crashes", "Handlers that raised an unexpected exception.")
INTERRUPTIONS: Final = _counter(
    "handler_interruptions", "Handlers that could not reach NATS, or lacked a resource of the system; they run again."
)
ISOLATED: Final = _counter(
    "isolated_messages",
    "Suspects handed to the isolated process: `handled`, `died`, `quarantined` or `returned` to be tried again.",
    "result",
)
RETURNS: Final = _counter(
    "messages_returned",
    "Messages returned to their stream after a minute in which JetStream refused to store what follows from them.",
)
TERMINATED: Final = _counter(
    "messages_terminated",
    "Messages removed because the server refused for good what follows from them, in the quarantine, too.",
)
PUBLISH_FAILURES: Final = _counter(
    "publish_failures",
    "Messages that JetStream rejected at first: `subject_full` went to the overflow, others are retried.",
    "reason",
)
FED: Final = _counter("overflow_fed", "Messages moved from the overflow to the work stream.")
SHED: Final = _counter("overflow_shed", "Messages that a worker moved to the overflow: their tenant's surplus.")
OMITTED: Final = _counter(
    "notifications_omitted",
    "Deliveries of operational events beyond a limit of their tenant: `subscribers` of an event, or the `rate`.",
    "limit",
)
RECONNECTS: Final = _counter("nats_reconnects", "Reconnects to NATS.")
FORBIDDEN: Final = _counter("nats_permission_violations", "Operations that NATS refused for lack of permission.")
CACHE_HITS: Final = _counter("secret_cache_hits", "Secrets returned from the cache while fresh.")
CACHE_MISSES: Final = _counter("secret_cache_misses", "Secrets that had to be read first.")
CACHE_REFRESHES: Final = _counter("secret_cache_refreshes", "Secrets refreshed in the background.")
CACHE_STALE: Final = _counter("secret_cache_stale", "Stale Secrets returned while the provider was unavailable.")
READ_FAILURES: Final = _counter("secret_read_failures", "Failed reads of a Secret.", "code")
TRACES: Final = _counter(
    "traces", "Traced attempts: `sampled`, `unusual` (failed or slow), or `dropped` beyond a limit.", "decision"
)
EXPORTS: Final = _counter("telemetry_exports", "Exports over OTLP.", "signal", "result")
RESTARTS: Final = _counter(
    "supervised_restarts", "Consumers that exited and were restarted, under `consumer --processes`."
)
QUOTA_REFUSALS: Final = _counter(
    "quota_refusals", "Deliveries that the API refused because of the tenant's storage: `waiting` or `failed`.", "quota"
)
HTTP_REQUESTS: Final = _counter("http_requests", "Requests to the API.", "method", "route", "status")
NATS_REQUESTS: Final = _counter(
    "nats_requests",
    "Requests to the API over NATS. Without an answer, and not accepted: `unanswerable` (no inbox), `dropped` (flood).",
    "status",
)

LATENCY: Final = _histogram(
    "delivery_latency",
    "Time from the event's own time to the receiver's 2xx, retries included, replays excluded.",
    "tenant",
    bounds_s=LONG_S,
)
QUEUE_WAIT: Final = _histogram(
    "queue_wait",
    "Time from the storage of a request in its stream to the start of its attempt.",
    "tenant",
    bounds_s=LONG_S,
    former_name="oneprotect_wait_seconds",
)
SEND: Final = _histogram(
    "send_duration", "Duration of one POST: DNS, connection, request and response.", "outcome", bounds_s=SHORT_S
)
HTTP_DURATION: Final = _histogram(
    "http_request_duration", "Duration of a request to the API.", "route", bounds_s=SHORT_S
)
NATS_DURATION: Final = _histogram(
    "nats_request_duration", "Time from the receipt of a request over NATS to its response.", bounds_s=SHORT_S
)

IN_FLIGHT: Final = _gauge("in_flight_attempts", "Attempts in progress.")
IN_FLIGHT_LIMIT: Final = _gauge("in_flight_limit", "Maximum of attempts in progress: ONEPROTECT_MAX_IN_FLIGHT.")
UNSETTLED: Final = _gauge(
    "unsettled_messages",
    "Messages received from NATS and not yet acknowledged or returned.",
    former_name="oneprotect_held_messages",
)
SUSPECTS: Final = _gauge(
    "suspect_messages", "Messages, destinations and tenants that are isolated, as this process knows them."
)
CACHE_ENTRIES: Final = _gauge("secret_cache_entries", "Secrets in the cache.")
CACHE_OLDEST: Final = _gauge("secret_cache_oldest_seconds", "Age of the oldest Secret in the cache.")
CREDENTIALS: Final = _gauge("credentials", "Credentials by status, as this process knows them.", "status")
DESTINATIONS: Final = _gauge(
    "destinations", "Destinations whose circuit breaker is `open` or `half_open`, as this process knows them.", "state"
)
STREAM_MESSAGES: Final = _gauge("stream_messages", "Messages in a stream.", "stream")
STREAM_BYTES: Final = _gauge("stream_bytes", "Size of a stream in bytes.", "stream")
LARGEST_TENANT: Final = _gauge(
    "stream_largest_tenant_bytes", "Bytes, before compression, of the tenant that stores most in a stream.", "stream"
)
STREAM_SUBJECTS: Final = _gauge(
    "stream_subjects", "Subjects with messages in a stream; in work and overflow, destinations.", "stream"
)
STREAM_OLDEST: Final = _gauge("stream_oldest_seconds", "Age of the oldest message in a stream; 0 when empty.", "stream")
PENDING: Final = _gauge("consumer_pending", "Lag: messages not yet delivered to a worker.", "stream")
ACK_PENDING: Final = _gauge("consumer_ack_pending", "Messages delivered to workers and not yet settled.", "stream")
WAITING: Final = _gauge("consumer_waiting", "Pull requests of workers that wait at the server.", "stream")
SCHEDULED: Final = _gauge("schedules_pending", "Attempts scheduled for later.")
OVERDUE: Final = _gauge("schedules_overdue", "Schedules that the server should have fired; consumers fire them.")
LATENESS: Final = _gauge(
    "schedule_lateness_seconds", "How late the server made the last retry due that this consumer got."
)
RETRY_ROOM: Final = _gauge("retries_per_second", "Retries that this consumer makes due in one second, at most.")
STORAGE: Final = _gauge("jetstream_storage_bytes", "Disk space used by the streams of this account.")
STORAGE_LIMIT: Final = _gauge("jetstream_storage_limit_bytes", "Disk space available to this account, if limited.")
REPLAYS: Final = _gauge("replays_running", "Replays in progress.")
REPLAY_ASKED: Final = _gauge("replay_requested_deliveries", "Deliveries requested so far by the replays in progress.")
REPLAY_LEFT: Final = _gauge("replay_remaining_messages", "Stream sequences still ahead of the replays in progress.")
SAMPLE_AGE: Final = _gauge("backlog_sample_age_seconds", "Time since the last sample of streams and consumers.")
CONNECTED: Final = _gauge("nats_connected", "1 while the connection to NATS is up.")
READY: Final = _gauge("ready", "1 while `/readyz` reports ready.")
LOOP_LAG: Final = _gauge("event_loop_lag_seconds", "Longest delay of an event loop timer in the last seconds.")
SUPERVISED: Final = _gauge("supervised_processes", "Consumers that run under `consumer --processes`.")
SUPERVISED_WANTED: Final = _gauge("supervised_processes_wanted", "Consumers that should run.")
BUILD: Final = _gauge("build_info", "Always 1; the labels identify the build.", "version", "python", "role")
CPU: Final = _counter("process_cpu_seconds", "CPU time used by this process.")
MEMORY: Final = _gauge("process_resident_memory_bytes", "Resident memory of this process.")
FILES: Final = _gauge("process_open_files", "Open file descriptors.")
FILES_LIMIT: Final = _gauge("process_open_files_limit", "Maximum of open file descriptors.")
STARTED: Final = _gauge("process_start_time_seconds", "Start time of this process, in seconds since 1970.")

_CURRENT: Final = [metric for metric in list(globals().values()) if isinstance(metric, MetricDefinition)]
FORMER_NAMES: Final = {metric.name: metric.former_name for metric in _CURRENT if metric.former_name}
CATALOGUE: Final = {metric.name: metric for metric in _CURRENT} | {
    metric.former_name: msgspec.structs.replace(
        metric, name=metric.former_name, help=f"Deprecated: use {metric.name}.", former_name=""
    )
    for metric in _CURRENT
    if metric.former_name
}
"""All metrics by name, in the order of the export. Former names come last."""
