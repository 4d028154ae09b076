"""Every metric that there is: name, kind, labels and meaning. What is not in here can't be told.

`/metrics`, OTLP and the table in `docs/reference/metrics.md` are made from it. The dashboard and the alerts are
checked against it.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

SHORT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of buckets for what takes one attempt, in seconds and inclusive."""
LONG_S: Final = (*SHORT_S, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""The same for what may go over several attempts: the default schedule of retries takes 28 hours."""

Kind = Literal["counter", "gauge", "histogram"]


class MetricDefinition(Struct, frozen=True):
    """One metric. Counters end in `_total`; everything else in its unit, where it has one."""

    name: str
    kind: Kind
    help: str
    labels: Annotated[tuple[str, ...], Meta(description="`tenant` is there only with ONEPROTECT_METRICS_TENANTS_MAX.")]
    bounds_s: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}", "gauge", text, labels)


def _histogram(name: str, text: str, *labels: str, bounds_s: tuple[float, ...]) -> MetricDefinition:
    return MetricDefinition(f"oneprotect_{name}_seconds", "histogram", text, labels, bounds_s)


ATTEMPTS: Final = _counter("attempts", "Attempts that ended, by how and why.", "outcome", "code", "tenant")
DELIVERIES: Final = _counter(
    "deliveries", "Deliveries that came to their end: delivered, failed or skipped.", "outcome", "tenant"
)
SUPPRESSED: Final = _counter(
    "duplicates_suppressed", "Redeliveries by NATS that were settled from the record, with nothing sent."
)
BLOCKED: Final = _counter("egress_blocked", "Attempts that the egress guard stopped before anything was sent.")
REPLAYED: Final = _counter("replayed_attempts", "Attempts that a replay had asked for.", "outcome")
DEFERRALS: Final = _counter("deferrals", "Requests put off, with no attempt made, as their destination rests.")
QUARANTINED: Final = _counter("quarantined", "Messages put into quarantine.", "code")
CRASHES: Final = _counter("handler_crashes", "Handlers that failed in a way nobody foresaw.")
PUBLISH_FAILURES: Final = _counter(
    "publish_failures",
    "Messages that JetStream did not store at once: `subject_full` went to the overflow, others are tried again.",
    "reason",
)
FED: Final = _counter("overflow_fed", "Messages brought back from the overflow to the work stream.")
RECONNECTS: Final = _counter("nats_reconnects", "Times that the connection to NATS came back.")
CACHE_HITS: Final = _counter("secret_cache_hits", "Secrets given from memory while fresh.")
CACHE_MISSES: Final = _counter("secret_cache_misses", "Secrets that had to be waited for.")
CACHE_REFRESHES: Final = _counter("secret_cache_refreshes", "Secrets read anew in the background.")
CACHE_STALE: Final = _counter("secret_cache_stale", "Secrets given after their time, while the provider was silent.")
READ_FAILURES: Final = _counter("secret_read_failures", "Reads that brought no Secret, by the reason.", "code")
TRACES: Final = _counter(
    "traces",
    "Attempts traced: `sampled`, `unusual` (failed or slow), or `dropped` beyond a bound.",
    "decision",
)
EXPORTS: Final = _counter("telemetry_exports", "Exports over OTLP, by signal and result.", "signal", "result")
RESTARTS: Final = _counter(
    "supervised_restarts",
    "Under `consumer --processes`: consumers that had ended by themselves, and were started again.",
)
HTTP_REQUESTS: Final = _counter("http_requests", "Requests to the API.", "method", "route", "status")

LATENCY: Final = _histogram(
    "delivery_latency",
    "From the time in the event to a receiver's 2xx, over all attempts; replays are left out.",
    "tenant",
    bounds_s=LONG_S,
)
WAIT: Final = _histogram(
    "wait", "From the moment a stream has a request until its attempt begins.", "tenant", bounds_s=LONG_S
)
SEND: Final = _histogram(
    "send_duration", "One POST: resolving, connecting, writing, and the answer.", "outcome", bounds_s=SHORT_S
)
HTTP_DURATION: Final = _histogram("http_request_duration", "A request to the API.", "route", bounds_s=SHORT_S)

IN_FLIGHT: Final = _gauge("in_flight_attempts", "Attempts that run right now.")
IN_FLIGHT_LIMIT: Final = _gauge("in_flight_limit", "The most that may: ONEPROTECT_MAX_IN_FLIGHT.")
HELD: Final = _gauge("held_messages", "Messages taken from NATS and not settled yet.")
CACHE_ENTRIES: Final = _gauge("secret_cache_entries", "Secrets in memory.")
CACHE_OLDEST: Final = _gauge("secret_cache_oldest_seconds", "How long ago the oldest Secret in memory was read.")
CREDENTIALS: Final = _gauge("credentials", "Credentials by status, as this process knows them.", "status")
DESTINATIONS: Final = _gauge(
    "destinations", "Destinations that are given a rest, or tried one attempt at a time after it.", "state"
)
STREAM_MESSAGES: Final = _gauge("stream_messages", "Messages in a stream.", "stream")
STREAM_BYTES: Final = _gauge("stream_bytes", "Bytes that a stream takes.", "stream")
STREAM_SUBJECTS: Final = _gauge(
    "stream_subjects", "Subjects with messages in a stream: of work and overflow, the destinations.", "stream"
)
STREAM_OLDEST: Final = _gauge("stream_oldest_seconds", "Age of the oldest message in a stream; 0 when empty.", "stream")
PENDING: Final = _gauge("consumer_pending", "The lag: messages that no worker has been given yet.", "stream")
ACK_PENDING: Final = _gauge("consumer_ack_pending", "Messages that workers have and have not settled.", "stream")
WAITING: Final = _gauge("consumer_waiting", "Requests of workers for more.", "stream")
SCHEDULED: Final = _gauge("schedules_pending", "Attempts that wait for their time.")
OVERDUE: Final = _gauge("schedules_overdue", "Of the oldest 64 schedules, those that the server should have fired.")
STORAGE: Final = _gauge("jetstream_storage_bytes", "Disk that this account's streams take.")
STORAGE_LIMIT: Final = _gauge("jetstream_storage_limit_bytes", "Disk that this account may take, if there is a limit.")
REPLAYS: Final = _gauge("replays_running", "Replays that are not finished.")
REPLAY_ASKED: Final = _gauge("replay_requested_deliveries", "Deliveries that those have requested so far.")
REPLAY_LEFT: Final = _gauge("replay_remaining_messages", "Places in the stream of kept deliveries still before them.")
SAMPLE_AGE: Final = _gauge("backlog_sample_age_seconds", "Since NATS was last asked for streams and consumers.")
CONNECTED: Final = _gauge("nats_connected", "1 while NATS can be talked to.")
READY: Final = _gauge("ready", "1 while `/readyz` says so.")
LOOP_LAG: Final = _gauge("event_loop_lag_seconds", "How late the event loop ran a timer, at most, in the last seconds.")
SUPERVISED: Final = _gauge("supervised_processes", "Under `consumer --processes`: consumers that run right now.")
SUPERVISED_WANTED: Final = _gauge("supervised_processes_wanted", "How many of them there should be.")
BUILD: Final = _gauge("build_info", "Always 1: what runs.", "version", "python", "role")
CPU: Final = _counter("process_cpu_seconds", "CPU time that this process has used.")
MEMORY: Final = _gauge("process_resident_memory_bytes", "Memory of this process.")
FILES: Final = _gauge("process_open_files", "Open files and sockets.")
FILES_LIMIT: Final = _gauge("process_open_files_limit", "The most that may be open.")
STARTED: Final = _gauge("process_start_time_seconds", "When this process started, in seconds since 1970.")

CATALOGUE: Final = {metric.name: metric for metric in list(globals().values()) if isinstance(metric, MetricDefinition)}
"""All of them, by name, in the order in which they are shown."""
