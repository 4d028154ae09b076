"""Settings from environment variables `ONEPROTECT_*` (contract, section 6), read once at start.

The text under each field is its description in the settings reference. Problems name the variable and the rule, never
the value: operators sometimes paste a secret into the wrong variable.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from oneprotect.settings.parsers import PortRange
from oneprotect.settings.variables import VARIABLES, SettingVariable
from schemas.configuration import DEFAULT_RETRY_SCHEDULE_S

PREFIX: Final = "ONEPROTECT_"
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

_NO_LOCAL_DIR: Final = (
    "ONEPROTECT_LOCAL_SECRETS_DIR: required with the provider `local`; set it to the directory of the Secret manifests"
)
_NO_PROVIDER: Final = (
    "ONEPROTECT_SECRET_PROVIDER: required; set it to `kubernetes`, or to `local` on a developer's machine"
)
_NO_AUDIENCE: Final = (
    "ONEPROTECT_OIDC_AUDIENCE: required with ONEPROTECT_OIDC_ISSUER; set it to the `aud` claim of the API's tokens"
)
_TWO_CREDENTIALS: Final = (
    "ONEPROTECT_NATS_NKEY_FILE: conflicts with ONEPROTECT_NATS_CREDS_FILE; unset the one that the server does not use"
)
_LOCAL_IN_CLUSTER: Final = (
    "ONEPROTECT_SECRET_PROVIDER: `local` is refused inside a cluster, because it keeps secrets in files; "
    "set it to `kubernetes`"
)
_SERVICE_LINK: Final = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_LINK_HINT: Final = (
    "Kubernetes injects it for a Service of that name; set `enableServiceLinks: false` in the pod specification"
)


class SettingsError(Exception):
    """Unusable settings. `problems` has one line each: the variable, what is wrong, and the fix."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: Final = tuple(problems)
        super().__init__("\n".join(self.problems))


class NatsSettings(Struct, frozen=True, kw_only=True):
    """Connection to NATS, and the streams that `oneprotect apply` creates."""

    url: str = "nats://127.0.0.1:4222"
    """NATS servers to connect to. Name several servers of a cluster to survive the loss of one."""
    creds_file: Path | None = None
    """NATS credentials file (JWT and seed) of this process's user. Not together with ONEPROTECT_NATS_NKEY_FILE."""
    nkey_file: Path | None = None
    """NKey seed file (`SU...`) of this process's user, for servers that list public keys as in deploy/nats."""
    inbox_prefix: str = "_INBOX"
    """Subject prefix for replies. It must match the prefix that the NATS user may subscribe to."""
    ca_file: Path | None = None
    """CA certificates (PEM) that verify the certificate of a `tls://` server. Default: the system's."""
    replicas: int = 1
    """Copies of each stream. Use 1 for development, and 3 to survive the loss of a server."""
    work_per_destination: int = 1000
    """Due deliveries that the work stream holds per destination. Further deliveries wait in the overflow stream."""
    work_per_tenant: int = 5000
    """Due deliveries of one tenant beyond which its further ones go to the overflow stream. It shrinks under load."""
    archive_days: int = 30
    """Days to keep delivered payloads for replay. 0 disables the archive."""
    archive_max_bytes: int = 2 * 1024**3
    """Maximum size of the archive, per replica. The server removes the oldest payloads beyond it."""
    attempts_max_bytes: int = 6 * 1024**3
    """Maximum size of the attempt results, per replica: about 1 KB for each. Beyond it the oldest are removed."""
    events_max_bytes: int = 1024**3
    """Maximum size of the operational events and the audit trail, per replica. Beyond it the oldest are removed."""
    quarantine_max_bytes: int = 512 * 1024**2
    """Maximum size of the quarantine, per replica. Beyond it the oldest messages are removed."""
    idempotency_window_s: float = 86_400.0
    """Time for which a delivery id that a producer names is remembered. A repeat within it is not delivered again. At
    least the duplicate window of the streams, 600 seconds. While a delivery waits its id is remembered longer. 0
    remembers none. After a change, run `oneprotect apply`, and restart the API and the consumers."""


class SecretSettings(Struct, frozen=True, kw_only=True):
    """Provider of signing secrets. Exactly one provider is configured; there is no fallback."""

    provider: Literal["kubernetes", "local"] | None = None
    """Secret provider. Required for every command that reads secrets. `local` is refused inside a cluster."""
    namespace: str | None = None
    """Central namespace. Secret refs may omit it, and it may always be read."""
    namespaces_allowed: tuple[str, ...] = ()
    """Further namespaces that secret refs may name. Any other namespace is refused without a request."""
    cache_ttl_s: float = 60.0
    """Time until a cached secret is read again. A rotation takes effect within this time."""
    max_stale_s: float = 300.0
    """Time since its last read for which a secret still signs while the provider is unavailable. 0: never."""
    local_dir: Path | None = None
    """Directory with `NAMESPACE/SECRET.json` manifests. Required with the provider `local`."""
    retry_schedule_s: tuple[float, ...] = (30.0, 60.0, 300.0, 900.0, 3600.0)
    """Waits between reads of a missing secret; the last one repeats. They do not count as delivery attempts, and end
    as soon as the credential becomes `configured`."""

    @property
    def namespaces(self) -> frozenset[str]:
        """Every namespace that may be read. When empty, every secret ref is refused."""
        central = {self.namespace} if self.namespace else set[str]()
        return frozenset(central | set(self.namespaces_allowed))


class EgressSettings(Struct, frozen=True, kw_only=True):
    """Egress policy. Private, loopback and other special-purpose ranges are blocked unless allowed here."""

    allow_cidrs: tuple[str, ...] = ()
    """Exceptions to the blocked ranges. Allow the receivers' networks only."""
    allow_http: bool = False
    """Allow plain `http://` URLs. The network path can read everything sent to them."""
    ports: tuple[PortRange, ...] = ((443, 443),)
    """Ports that destination URLs may use."""
    ca_file: Path | None = None
    """CA certificates (PEM) trusted in addition to the system's, for receivers with a private CA."""
    proxy: tuple[str, int] | None = None
    """Proxy for every delivery. The consumer resolves and checks the address, then sends CONNECT with that address.
    The usual proxy environment variables have no effect."""
    dns_servers: tuple[tuple[str, int], ...] = ()
    """Name servers for receivers and the proxy. Default: those in `/etc/resolv.conf`."""
    dns_search: bool = False
    """Complete the names of receivers with the search domains of `/etc/resolv.conf`. In a cluster, these are the
    cluster's own domains."""


class DeliverySettings(Struct, frozen=True, kw_only=True):
    """Sending and retries, for destinations that do not set their own values."""

    request_timeout_s: float = 15.0
    """Time limit for one attempt, from connecting to the end of the response."""
    max_in_flight: int = 256
    """Concurrent attempts per consumer process. It bounds memory and sockets."""
    destination_max_in_flight: int = 8
    """Concurrent attempts per consumer process to one destination, so that a slow one does not use all slots."""
    retry_schedule_s: tuple[float, ...] = DEFAULT_RETRY_SCHEDULE_S
    """Waits before each further attempt. N waits allow N + 1 attempts. The default spans 28 hours."""
    retry_jitter: float = 0.2
    """Random spread of each wait as a fraction: 0.2 is ±20 %. It separates deliveries that failed together."""
    retries_per_s: int = 1000
    """Most retries of a consumer process that are due in one second, of a single tenant a third. The others are due
    later. A process begins with 300, and follows what the servers fire in time."""
    retry_after_timeout_s: float = 60.0
    """Minimum wait after an attempt that timed out, so that retries do not overload a slow receiver."""
    max_payload_bytes: int = 256 * 1024
    """Maximum size of a delivery's body."""
    ack_wait_s: float = 30.0
    """Time without a sign of life after which the server redelivers a consumer's messages to another one."""
    stall_timeout_s: float = 20.0
    """Time for which the event loop of a consumer or of the API may stall before its process ends, to be restarted. Set
    it below ONEPROTECT_ACK_WAIT_S."""
    state_dir: Path | None = None
    """Directory in which a consumer notes what it is handling, to find out what it was when it died. It must survive
    the process, not the pod. Default: a directory for each user in the system's directory for temporary files."""
    drain_timeout_s: float = 25.0
    """Time for which a stopping consumer waits for attempts in flight. Set it above ONEPROTECT_REQUEST_TIMEOUT_S and
    below the pod's `terminationGracePeriodSeconds`."""


class ApiSettings(Struct, frozen=True, kw_only=True):
    """HTTP API server."""

    host: str = "127.0.0.1"
    """Address to listen on. The API serves plain HTTP: terminate TLS in front of it."""
    port: int = 8080
    """Port to listen on. 0 picks a free port."""
    body_timeout_s: float = 10.0
    """Time in which a request's body must arrive."""
    auth_failures: int = 20
    """Failed authentications in a row per client address. Beyond that, the API accepts one try every two seconds."""
    max_connections: int = 4096
    """Open connections. A further one replaces the connection that has waited longest for a request. The limit on open
    files is raised as needed; where it cannot be, fewer connections are open."""
    max_connections_per_client: int = 1024
    """Open connections of one client address. Trusted proxies have no such limit."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of load balancers whose `X-Forwarded-For` header is trusted. It sets the client address for the audit
    trail and for the limit on failed authentications."""


class TenantSettings(Struct, frozen=True, kw_only=True):
    """Limits for each tenant, so that no tenant uses what the others need."""

    rate_per_s: float = 1000.0
    """Requests per second to each API process, over HTTP and NATS together. Two seconds' worth may come at once.
    Each further delivery of a fan-out counts as half a request."""
    token_rate_per_s: float = 500.0
    """Requests per second of one token, or of one JWT subject, to each API process."""
    max_concurrent: int = 128
    """Requests in progress in each API process, over HTTP and NATS together."""
    max_streams: int = 50
    """Pages of the console that follow attempts live, in each API process."""
    max_destinations: int = 20_000
    """Destinations. Set this limit and the following ones for the API and for the command line alike."""
    max_ordered: int = 1000
    """Destinations with `ordering: fifo`, of 10,000 in all. A consumer process serves so many of a tenant at a time."""
    max_credentials: int = 20_000
    """Credentials that the tenant may register."""
    max_tokens: int = 20_000
    """Tokens for the API. The tokens for all tenants together have the same limit."""
    max_sessions: int = 1000
    """Console sessions. A session that is not signed out ends after 12 hours."""
    max_replays: int = 100
    """Unfinished replays. One of them runs, and the others wait."""
    max_waiting_bytes: int = 4 * 1024**3
    """Bytes of deliveries that wait: due, in the overflow, ordered or scheduled. Beyond it the API refuses new ones."""
    max_failed_bytes: int = 4 * 1024**3
    """Bytes of failed and skipped deliveries, which are kept for 30 days. Beyond it the API refuses new ones."""
    max_named_ids: int = 1_000_000
    """Delivery ids named by the tenant that are remembered. Beyond it the API refuses further ones, and consumers do
    not compare those of trusted publishers. A million take about 400 MB of each NATS server's memory."""
    archive_share: float = 0.25
    """Part of ONEPROTECT_ARCHIVE_MAX_BYTES that a tenant keeps when the archive is nearly full. What it has beyond that
    is removed first, the oldest first."""


class OidcSettings(Struct, frozen=True, kw_only=True):
    """JWT authentication with an OpenID Connect issuer, in addition to API tokens. Disabled without an issuer."""

    issuer: str | None = None
    """Issuer, compared exactly with the `iss` claim. Its `/.well-known/openid-configuration` locates its keys."""
    audience: str | None = None
    """Required `aud` claim. Required with an issuer, because a token for another service must not be accepted."""
    jwks_url: str | None = None
    """Location of the issuer's keys (JWKS). Default: from the issuer's discovery document."""
    ca_file: Path | None = None
    """CA certificates (PEM) trusted in addition to the system's, for an issuer with a private CA."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    """Accepted signature algorithms. A token with any other algorithm is refused."""
    tenant_claim: str = "tenant"
    """Claim that holds the tenant, or `*` for all tenants."""
    roles_claim: str = "roles"
    """Claim that holds the roles: a list, or a space-separated string. Unknown roles are ignored."""


class OpsSettings(Struct, frozen=True, kw_only=True):
    """Operations port of a consumer: `/healthz`, `/readyz` and `/metrics`. The API serves them on its own port."""

    host: str = "127.0.0.1"
    """Address to listen on. Use `0.0.0.0` in a pod, so that the kubelet and Prometheus reach it."""
    port: int | None = None
    """Port to listen on. 0 picks a free port. Default: no operations port."""


class TelemetrySettings(Struct, frozen=True, kw_only=True):
    """Content of metrics and traces. The standard `OTEL_*` variables control their export."""

    metrics_tenants_max: int = 0
    """Tenants with their own `tenant` label in metrics; further tenants count as `other`. 0 omits the label. Each
    tenant adds about 50 series."""
    trace_slow_s: float = 2.0
    """Duration above which an attempt is traced even if it was not sampled. Failed attempts are always traced."""


class LogSettings(Struct, frozen=True, kw_only=True):
    """Logging, on stderr."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Lowest level that is logged."""
    format: Literal["json", "console"] = "json"
    """`json` writes one object per line; `console` writes text for people."""
    attempts: Literal["failed", "all", "none"] = "failed"
    """Attempts that are logged: attempts that did not deliver, all, or none. `all` reduces throughput by a third.
    NATS stores every result in any case."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, in groups."""

    nats: NatsSettings = NatsSettings()
    secret: SecretSettings = SecretSettings()
    egress: EgressSettings = EgressSettings()
    delivery: DeliverySettings = DeliverySettings()
    api: ApiSettings = ApiSettings()
    tenant: TenantSettings = TenantSettings()
    oidc: OidcSettings = OidcSettings()
    ops: OpsSettings = OpsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def load(
        cls, environ: Mapping[str, str], *, resolves_secrets: bool = False, token_file: Path = SERVICE_ACCOUNT_TOKEN
    ) -> "Settings":
        """Parse every variable of `environ` that starts with `ONEPROTECT_`.

        Args:
            resolves_secrets: Require a secret provider.
            token_file: File whose existence means that this process runs in a cluster.

        Raises:
            SettingsError: Lists all problems at once.
        """
        problems = [_unknown(name) for name in sorted(environ) if _has_prefix(name) and name not in _NAMES]
        values: dict[str, dict[str, Any]] = {group: {} for group in cls.__struct_fields__}
        for variable in VARIABLES:
            text = environ.get(variable.name)
            value = None if text is None else variable.rule.parse(text)
            if value is not None:
                values[variable.group][variable.field] = value
            elif text is not None:
                problems.append(_invalid(variable, text))
        groups = {group.name: group.type(**values[group.name]) for group in msgspec.structs.fields(cls)}
        settings = cls(**groups)
        in_cluster = "KUBERNETES_SERVICE_HOST" in environ or token_file.exists()
        problems += settings._inconsistencies(environ, resolves_secrets=resolves_secrets, in_cluster=in_cluster)
        if problems:
            raise SettingsError(problems)
        return settings

    def require_audience(self) -> str:
        """Return the audience of JWTs. Raises `SettingsError` when it is not set."""
        if self.oidc.audience is None:
            raise SettingsError([_NO_AUDIENCE])
        return self.oidc.audience

    def require_provider(self) -> SecretSettings:
        """Return the secret settings. Raises `SettingsError` when they name no provider."""
        if self.secret.provider is None:
            raise SettingsError([_NO_PROVIDER])
        return self.secret

    def _inconsistencies(
        self, environ: Mapping[str, str], *, resolves_secrets: bool, in_cluster: bool
    ) -> Iterable[str]:
        if self.nats.creds_file and self.nats.nkey_file:
            yield _TWO_CREDENTIALS
        if resolves_secrets and "ONEPROTECT_SECRET_PROVIDER" not in environ:  # an invalid value is reported already
            yield _NO_PROVIDER
        if self.secret.provider == "local" and in_cluster:
            yield _LOCAL_IN_CLUSTER
        if self.secret.provider == "local" and "ONEPROTECT_LOCAL_SECRETS_DIR" not in environ:
            yield _NO_LOCAL_DIR


_NAMES: Final = frozenset(variable.name for variable in VARIABLES)


def _has_prefix(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _unknown(name: str) -> str:
    shown = name if name.isascii() and name.isidentifier() else f"{PREFIX}... (with characters that no setting has)"
    if _SERVICE_LINK.fullmatch(name):
        return f"{shown}: not a setting; {_SERVICE_LINK_HINT}"
    near = difflib.get_close_matches(name.upper(), _NAMES, n=1, cutoff=0.75)
    return f"{shown}: not a setting; " + (f"did you mean {near[0]}?" if near else "unset it")


def _invalid(variable: SettingVariable, text: str) -> str:
    hint = _SERVICE_LINK_HINT if text.startswith(("tcp://", "udp://")) else "correct it, or unset it for the default"
    return f"{variable.name}: expected {variable.rule.expectation}; {hint}"
