"""Environment variables and the settings that they fill. The table also generates the settings reference."""

from typing import Final

from msgspec import Struct

from oneprotect.settings import parsers
from oneprotect.settings.parsers import ValueParser, number, one_of, whole
from schemas.configuration import MAX_TIMEOUT_S

MAX_PAYLOAD_LIMIT_BYTES: Final = 640 * 1024
"""Encoded in base64 with its envelope, a larger payload exceeds `schemas.streams.MAX_MESSAGE_BYTES`."""


class SettingVariable(Struct, frozen=True):
    """An environment variable, the field that it sets, and the values that it accepts."""

    name: str
    group: str
    field: str
    rule: ValueParser


VARIABLES: Final = (
    SettingVariable("ONEPROTECT_NATS_URL", "nats", "url", parsers.NATS_URL),
    SettingVariable("ONEPROTECT_NATS_CREDS_FILE", "nats", "creds_file", parsers.FILE),
    SettingVariable("ONEPROTECT_NATS_NKEY_FILE", "nats", "nkey_file", parsers.FILE),
    SettingVariable("ONEPROTECT_NATS_INBOX_PREFIX", "nats", "inbox_prefix", parsers.INBOX),
    SettingVariable("ONEPROTECT_NATS_CA_FILE", "nats", "ca_file", parsers.FILE),
    SettingVariable("ONEPROTECT_NATS_REPLICAS", "nats", "replicas", whole(1, 5)),
    SettingVariable("ONEPROTECT_WORK_PER_DESTINATION", "nats", "work_per_destination", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_WORK_PER_TENANT", "nats", "work_per_tenant", whole(20, 1_000_000)),
    SettingVariable("ONEPROTECT_ARCHIVE_DAYS", "nats", "archive_days", whole(0, 3650, unit="days")),
    SettingVariable("ONEPROTECT_ARCHIVE_MAX_BYTES", "nats", "archive_max_bytes", whole(1024**2, 2**60, unit="bytes")),
    SettingVariable("ONEPROTECT_ATTEMPTS_MAX_BYTES", "nats", "attempts_max_bytes", whole(1024**2, 2**60, unit="bytes")),
    SettingVariable("ONEPROTECT_EVENTS_MAX_BYTES", "nats", "events_max_bytes", whole(1024**2, 2**60, unit="bytes")),
    SettingVariable(
        "ONEPROTECT_QUARANTINE_MAX_BYTES", "nats", "quarantine_max_bytes", whole(1024**2, 2**60, unit="bytes")
    ),
    SettingVariable(
        "ONEPROTECT_IDEMPOTENCY_WINDOW_S",
        "nats",
        "idempotency_window_s",
        number(600, 30 * 86_400, unit="seconds", or_zero=True),
    ),
    SettingVariable("ONEPROTECT_SECRET_PROVIDER", "secret", "provider", one_of("kubernetes", "local")),
    SettingVariable("ONEPROTECT_SECRET_NAMESPACE", "secret", "namespace", parsers.NAMESPACE),
    SettingVariable("ONEPROTECT_SECRET_NAMESPACES_ALLOWED", "secret", "namespaces_allowed", parsers.NAMESPACES),
    SettingVariable("ONEPROTECT_SECRET_CACHE_TTL_S", "secret", "cache_ttl_s", number(0, 3600, unit="seconds")),
    SettingVariable("ONEPROTECT_SECRET_MAX_STALE_S", "secret", "max_stale_s", number(0, 86_400, unit="seconds")),
    SettingVariable("ONEPROTECT_LOCAL_SECRETS_DIR", "secret", "local_dir", parsers.FILE),
    SettingVariable("ONEPROTECT_SECRET_RETRY_SCHEDULE_S", "secret", "retry_schedule_s", parsers.WAITS),
    SettingVariable("ONEPROTECT_EGRESS_ALLOW_CIDRS", "egress", "allow_cidrs", parsers.CIDRS),
    SettingVariable("ONEPROTECT_EGRESS_ALLOW_HTTP", "egress", "allow_http", parsers.FLAG),
    SettingVariable("ONEPROTECT_EGRESS_PORTS", "egress", "ports", parsers.PORTS),
    SettingVariable("ONEPROTECT_EGRESS_CA_FILE", "egress", "ca_file", parsers.FILE),
    SettingVariable("ONEPROTECT_EGRESS_PROXY", "egress", "proxy", parsers.HOST_PORT),
    SettingVariable("ONEPROTECT_EGRESS_DNS_SERVERS", "egress", "dns_servers", parsers.NAME_SERVERS),
    SettingVariable("ONEPROTECT_EGRESS_DNS_SEARCH", "egress", "dns_search", parsers.FLAG),
    SettingVariable(
        "ONEPROTECT_REQUEST_TIMEOUT_S", "delivery", "request_timeout_s", number(0.1, MAX_TIMEOUT_S, unit="seconds")
    ),
    SettingVariable("ONEPROTECT_MAX_IN_FLIGHT", "delivery", "max_in_flight", whole(1, 16_384)),
    SettingVariable("ONEPROTECT_DESTINATION_MAX_IN_FLIGHT", "delivery", "destination_max_in_flight", whole(1, 1024)),
    SettingVariable("ONEPROTECT_RETRY_SCHEDULE_S", "delivery", "retry_schedule_s", parsers.WAITS),
    SettingVariable("ONEPROTECT_RETRY_JITTER", "delivery", "retry_jitter", number(0, 0.9)),
    SettingVariable("ONEPROTECT_RETRIES_PER_S", "delivery", "retries_per_s", whole(10, 1_000_000)),
    SettingVariable(
        "ONEPROTECT_RETRY_AFTER_TIMEOUT_S", "delivery", "retry_after_timeout_s", number(0, 86_400, unit="seconds")
    ),
    SettingVariable(
        "ONEPROTECT_MAX_PAYLOAD_BYTES", "delivery", "max_payload_bytes", whole(1, MAX_PAYLOAD_LIMIT_BYTES, unit="bytes")
    ),
    SettingVariable("ONEPROTECT_ACK_WAIT_S", "delivery", "ack_wait_s", number(1, 600, unit="seconds")),
    SettingVariable("ONEPROTECT_STALL_TIMEOUT_S", "delivery", "stall_timeout_s", number(1, 600, unit="seconds")),
    SettingVariable("ONEPROTECT_STATE_DIR", "delivery", "state_dir", parsers.FILE),
    SettingVariable("ONEPROTECT_DRAIN_TIMEOUT_S", "delivery", "drain_timeout_s", number(0, 600, unit="seconds")),
    SettingVariable("ONEPROTECT_API_HOST", "api", "host", parsers.HOST),
    SettingVariable("ONEPROTECT_API_PORT", "api", "port", whole(0, 65_535)),
    SettingVariable("ONEPROTECT_API_BODY_TIMEOUT_S", "api", "body_timeout_s", number(1, 300, unit="seconds")),
    SettingVariable("ONEPROTECT_API_AUTH_FAILURES", "api", "auth_failures", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_API_MAX_CONNECTIONS", "api", "max_connections", whole(16, 1_000_000)),
    SettingVariable(
        "ONEPROTECT_API_MAX_CONNECTIONS_PER_CLIENT", "api", "max_connections_per_client", whole(1, 1_000_000)
    ),
    SettingVariable("ONEPROTECT_API_TRUSTED_PROXIES", "api", "trusted_proxies", parsers.CIDRS),
    SettingVariable("ONEPROTECT_TENANT_RATE_PER_S", "tenant", "rate_per_s", number(0.1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_TOKEN_RATE_PER_S", "tenant", "token_rate_per_s", number(0.1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_CONCURRENT", "tenant", "max_concurrent", whole(1, 65_536)),
    SettingVariable("ONEPROTECT_TENANT_MAX_STREAMS", "tenant", "max_streams", whole(1, 10_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_DESTINATIONS", "tenant", "max_destinations", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_ORDERED", "tenant", "max_ordered", whole(1, 10_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_CREDENTIALS", "tenant", "max_credentials", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_TOKENS", "tenant", "max_tokens", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_SESSIONS", "tenant", "max_sessions", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_TENANT_MAX_REPLAYS", "tenant", "max_replays", whole(1, 10_000)),
    SettingVariable(
        "ONEPROTECT_TENANT_MAX_WAITING_BYTES", "tenant", "max_waiting_bytes", whole(1024**2, 2**60, unit="bytes")
    ),
    SettingVariable(
        "ONEPROTECT_TENANT_MAX_FAILED_BYTES", "tenant", "max_failed_bytes", whole(1024**2, 2**60, unit="bytes")
    ),
    SettingVariable("ONEPROTECT_TENANT_MAX_NAMED_IDS", "tenant", "max_named_ids", whole(1, 1_000_000_000)),
    SettingVariable("ONEPROTECT_TENANT_ARCHIVE_SHARE", "tenant", "archive_share", number(0.01, 1)),
    SettingVariable("ONEPROTECT_OIDC_ISSUER", "oidc", "issuer", parsers.WEB_URL),
    SettingVariable("ONEPROTECT_OIDC_AUDIENCE", "oidc", "audience", parsers.TEXT),
    SettingVariable("ONEPROTECT_OIDC_JWKS_URL", "oidc", "jwks_url", parsers.WEB_URL),
    SettingVariable("ONEPROTECT_OIDC_CA_FILE", "oidc", "ca_file", parsers.FILE),
    SettingVariable("ONEPROTECT_OIDC_ALGORITHMS", "oidc", "algorithms", parsers.ALGORITHMS),
    SettingVariable("ONEPROTECT_OIDC_TENANT_CLAIM", "oidc", "tenant_claim", parsers.TEXT),
    SettingVariable("ONEPROTECT_OIDC_ROLES_CLAIM", "oidc", "roles_claim", parsers.TEXT),
    SettingVariable("ONEPROTECT_OPS_HOST", "ops", "host", parsers.HOST),
    SettingVariable("ONEPROTECT_OPS_PORT", "ops", "port", whole(0, 65_535)),
    SettingVariable("ONEPROTECT_METRICS_TENANTS_MAX", "telemetry", "metrics_tenants_max", whole(0, 10_000)),
    SettingVariable("ONEPROTECT_TRACE_SLOW_S", "telemetry", "trace_slow_s", number(0, 600, unit="seconds")),
    SettingVariable(
        "ONEPROTECT_LOG_LEVEL",
        "log",
        "level",
        one_of("debug", "info", "warning", "error", "critical", ignore_case=True),
    ),
    SettingVariable("ONEPROTECT_LOG_FORMAT", "log", "format", one_of("json", "console")),
    SettingVariable("ONEPROTECT_LOG_ATTEMPTS", "log", "attempts", one_of("failed", "all", "none")),
)
