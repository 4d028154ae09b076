"""The settings: environment variables `ONEPROTECT_*` (contract, section 6), read once, at the edge.

One table, `VARIABLES`, drives the reading and the reference (`tools.settings_reference`). What is wrong is told
all at once, by the variable's name and the rule, and never with the value: people paste secrets into the wrong one.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from oneprotect.settings import parsers
from oneprotect.settings.parsers import ValueParser, number, one_of, whole
from schemas.configuration import DEFAULT_RETRY_SCHEDULE_S, MAX_TIMEOUT_S

PREFIX: Final = "ONEPROTECT_"
MAX_PAYLOAD_LIMIT_BYTES: Final = 640 * 1024
"""In base64, with its envelope, this is what the work stream takes: `schemas.subjects.MAX_MESSAGE_BYTES`."""
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

PortRange = tuple[int, int]
"""The first and the last port, both in it."""

_NO_LOCAL_DIR: Final = "ONEPROTECT_LOCAL_SECRETS_DIR: required with the provider `local`; set it to a directory"
_NO_PROVIDER: Final = (
    "ONEPROTECT_SECRET_PROVIDER: required; set it to `kubernetes`, or to `local` on a developer's machine"
)
_TWO_CREDENTIALS: Final = (
    "ONEPROTECT_NATS_NKEY_FILE: ONEPROTECT_NATS_CREDS_FILE is set, too; unset the one that this server does not take"
)
_LOCAL_IN_CLUSTER: Final = (
    "ONEPROTECT_SECRET_PROVIDER: `local` is refused inside a cluster, as it would keep secrets in files; "
    "set it to `kubernetes`"
)
_SERVICE_LINK: Final = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_LINK_HINT: Final = (
    "Kubernetes sets it for a Service of that name; set `enableServiceLinks: false` in the pod's specification"
)


class SettingsError(Exception):
    """The settings can't be used. `problems`: one line each, with a variable's name and how to mend it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: Final = tuple(problems)
        super().__init__("\n".join(self.problems))


class NatsSettings(Struct, frozen=True, kw_only=True):
    """Where NATS is, and what the streams are created with."""

    url: str = "nats://127.0.0.1:4222"
    """The server, or several of a cluster. The default is a developer's own; in Kubernetes, name the service."""
    creds_file: Path | None = None
    """This role's NATS credentials: a JWT and its seed. A file, since variables leak into dumps and child processes."""
    nkey_file: Path | None = None
    """This role's seed (`SU...`), for a server that lists public keys, as the configuration in deploy/nats does."""
    inbox_prefix: str = "_INBOX"
    """Where this role hears answers: the subject that its NATS user may subscribe to, so that none hears another's."""
    ca_file: Path | None = None
    """Certificates (PEM) that a `tls://` server's certificate is checked against; without it, the system's."""
    replicas: int = 1
    """Copies of each stream that `apply` asks for: 1 for development, 3 to survive the loss of a server."""
    work_per_destination: int = 1000
    """Due deliveries held per destination before the rest overflow: what a flood can put in front of its own work."""
    archive_days: int = 30
    """Days for which deliveries that were taken are kept whole, so that they can be replayed; 0 keeps none."""
    archive_max_bytes: int = 2 * 1024**3
    """Bytes that they may take, per replica; beyond that the oldest go. Bounded, as a full disk stops deliveries."""


class SecretSettings(Struct, frozen=True, kw_only=True):
    """Where signing secrets come from. One provider, chosen by name, and no fallback."""

    provider: Literal["kubernetes", "local"] | None = None
    """Required by every command that resolves secrets, with no default: a guessed source of secrets is a wrong one.
    `local` is refused inside a cluster."""
    namespace: str | None = None
    """The central namespace: lets a ref leave it out. Always among those that may be read."""
    namespaces_allowed: tuple[str, ...] = ()
    """Further namespaces that refs may name. Any other is refused before anything is asked."""
    cache_ttl_s: float = 60.0
    """Seconds until a secret is read again: how long a rotation may go unnoticed, against load on the API server."""
    max_stale_s: float = 300.0
    """Seconds since it was read that a secret may still sign while the provider can't be asked; 0 never."""
    local_dir: Path | None = None
    """For `local`: the directory that holds `NAMESPACE/SECRET.json`."""
    retry_schedule_s: tuple[float, ...] = (30.0, 60.0, 300.0, 900.0, 3600.0)
    """Seconds between looks for a secret that is missing; the last repeats. They use up none of the receiver's
    attempts, and end at once when the credential turns `configured`."""

    @property
    def namespaces(self) -> frozenset[str]:
        """Every namespace that may be read. Empty when none is named, and then every ref is refused."""
        central = {self.namespace} if self.namespace else set[str]()
        return frozenset(central | set(self.namespaces_allowed))

    def require_local_dir(self) -> Path:
        """The local provider's directory. Raises `SettingsError` without one."""
        if self.local_dir is None:
            raise SettingsError([_NO_LOCAL_DIR])
        return self.local_dir


class EgressSettings(Struct, frozen=True, kw_only=True):
    """Where deliveries may go. Private, loopback and other special ranges are closed unless named here."""

    allow_cidrs: tuple[str, ...] = ()
    """Exceptions to the blocked ranges. Name the receivers' networks and no wider ones."""
    allow_http: bool = False
    """Whether plain `http://` URLs may be called: everyone on the way can read what they carry."""
    ports: tuple[PortRange, ...] = ((443, 443),)
    """Ports that URLs may name. Few, so that a URL can't reach what else runs on a host."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust beside the system's, for receivers under a private authority."""
    proxy: tuple[str, int] | None = None
    """A proxy that every delivery goes through, by CONNECT to an address that was resolved and checked here: it must
    allow those, on the ports that URLs may name. The proxy variables of the environment are never heeded."""


class DeliverySettings(Struct, frozen=True, kw_only=True):
    """How deliveries are sent and tried again, where their destination does not say otherwise."""

    request_timeout_s: float = 15.0
    """Seconds that one attempt may take in all, as receivers are told to answer first and work later."""
    max_in_flight: int = 256
    """Attempts that one consumer makes at a time: its share of memory and sockets."""
    destination_max_in_flight: int = 8
    """Attempts at a time that one consumer makes to one destination, so that a slow one can't hold all of them."""
    retry_schedule_s: tuple[float, ...] = DEFAULT_RETRY_SCHEDULE_S
    """Seconds before each further attempt; one more attempt than waits. The default spans 28 hours."""
    retry_jitter: float = 0.2
    """The share by which each wait is spread to both sides, so that what failed together does not return together."""
    retry_after_timeout_s: float = 60.0
    """Seconds that follow an attempt that timed out, at least: who is too slow is not helped by being hurried."""
    max_payload_bytes: int = 256 * 1024
    """Bytes of a delivery's body. At most 640 KiB, so that it fits into a message as base64, envelope included."""
    ack_wait_s: float = 30.0
    """Seconds without a sign of life after which the server hands a dead consumer's work to another."""
    drain_timeout_s: float = 25.0
    """Seconds that a stopping consumer waits for what is in flight. More than a request takes, and less than
    Kubernetes' `terminationGracePeriodSeconds`."""


class ApiSettings(Struct, frozen=True, kw_only=True):
    """Where the HTTP API listens."""

    host: str = "127.0.0.1"
    """The address to bind. Loopback unless asked, as the API speaks plain HTTP and expects TLS before it."""
    port: int = 8080
    """The port to bind; 0 takes a free one."""
    body_timeout_s: float = 10.0
    """Seconds that a request's body may take to come, so that whoever drips it holds nothing for long."""
    auth_failures: int = 20
    """How often a client address may send a bad token at once; then it may every two seconds, and is told so."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of load balancers whose `X-Forwarded-For` is believed. Without them a client's address is the one that
    connects: the audit trail and the bound on failed authentication go by it."""


class OidcSettings(Struct, frozen=True, kw_only=True):
    """Whose JWTs are taken beside tokens of our own. Off without an issuer."""

    issuer: str | None = None
    """The `iss` that tokens must have, exactly. Its `/.well-known/openid-configuration` says where its keys are."""
    audience: str | None = None
    """The `aud` that tokens must be for: a token for somebody else is none for us. Required with an issuer."""
    jwks_url: str | None = None
    """Where the issuer's keys are, for one that can't be asked."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust beside the system's, for an issuer under a private authority."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    """How tokens may be signed. Pinned, as a token must not choose; none that is symmetric can be named."""
    tenant_claim: str = "tenant"
    """The claim with the tenant, or `*` for all of them."""
    roles_claim: str = "roles"
    """The claim with the roles: a list, or words parted by blanks. Those that we don't know are left out."""


class OpsSettings(Struct, frozen=True, kw_only=True):
    """Where a consumer answers `/healthz`, `/readyz` and `/metrics`; the API does so on its own port."""

    host: str = "127.0.0.1"
    """The address to bind. Loopback unless asked; in a pod, `0.0.0.0`, so that the kubelet and Prometheus reach it."""
    port: int | None = None
    """The port to bind; 0 takes a free one. Without it there is none, and nothing is loaded for it."""


class TelemetrySettings(Struct, frozen=True, kw_only=True):
    """What metrics and traces tell. Whether they are exported, and where to, OpenTelemetry's own `OTEL_*` say."""

    metrics_tenants_max: int = 0
    """Tenants that get a `tenant` label; any beyond count as `other`. 0 for no such label: each costs 50 series."""
    trace_slow_s: float = 2.0
    """An attempt that takes longer is traced even if it was not sampled, as one that fails is."""


class LogSettings(Struct, frozen=True, kw_only=True):
    """What is logged, on stderr."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """The least important records that are shown."""
    format: Literal["json", "console"] = "json"
    """`json` is one object a line, for machines; `console` is for eyes."""
    attempts: Literal["failed", "all", "none"] = "failed"
    """Which attempts get a record of their own: those that did not deliver, all, or none. Each costs 40 microseconds,
    so `all` takes a third of the throughput; every result is kept on NATS anyway."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set, by what it is about."""

    nats: NatsSettings = NatsSettings()
    secret: SecretSettings = SecretSettings()
    egress: EgressSettings = EgressSettings()
    delivery: DeliverySettings = DeliverySettings()
    api: ApiSettings = ApiSettings()
    oidc: OidcSettings = OidcSettings()
    ops: OpsSettings = OpsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        *,
        resolves_secrets: bool = False,
        token_file: Path = SERVICE_ACCOUNT_TOKEN,
    ) -> "Settings":
        """Read every variable of `environ` that starts with `ONEPROTECT_`. Raises `SettingsError` with all problems.

        With `resolves_secrets` a provider is required. A `token_file` that exists means that this is a cluster.
        """
        problems = [_unknown(name) for name in sorted(environ) if _is_ours(name) and name not in _NAMES]
        fields: dict[str, dict[str, Any]] = {group: {} for group in cls.__struct_fields__}
        for variable in VARIABLES:
            text = environ.get(variable.name)
            value = None if text is None else variable.rule.parse(text)
            if value is not None:
                fields[variable.group][variable.field] = value
            elif text is not None:
                problems.append(_bad(variable, text))
        settings = cls(
            nats=NatsSettings(**fields["nats"]),
            secret=SecretSettings(**fields["secret"]),
            egress=EgressSettings(**fields["egress"]),
            delivery=DeliverySettings(**fields["delivery"]),
            api=ApiSettings(**fields["api"]),
            oidc=OidcSettings(**fields["oidc"]),
            ops=OpsSettings(**fields["ops"]),
            telemetry=TelemetrySettings(**fields["telemetry"]),
            log=LogSettings(**fields["log"]),
        )
        in_cluster = "KUBERNETES_SERVICE_HOST" in environ or token_file.exists()
        problems += settings._missing(environ, resolves_secrets=resolves_secrets, in_cluster=in_cluster)
        if problems:
            raise SettingsError(problems)
        return settings

    def require_audience(self) -> str:
        """What JWTs must be for. Raises `SettingsError` when an issuer is trusted for whatever it issues."""
        if self.oidc.audience is None:
            raise SettingsError(
                ["ONEPROTECT_OIDC_AUDIENCE: required with ONEPROTECT_OIDC_ISSUER; set it to what its tokens for us say"]
            )
        return self.oidc.audience

    def require_provider(self) -> SecretSettings:
        """Where secrets come from. Raises `SettingsError` when no provider is set."""
        if self.secret.provider is None:
            raise SettingsError([_NO_PROVIDER])
        return self.secret

    def _missing(self, environ: Mapping[str, str], *, resolves_secrets: bool, in_cluster: bool) -> Iterable[str]:
        """What the values demand of each other. A variable that is set, and bad, has been told already."""
        if self.nats.creds_file and self.nats.nkey_file:
            yield _TWO_CREDENTIALS
        if resolves_secrets and "ONEPROTECT_SECRET_PROVIDER" not in environ:
            yield _NO_PROVIDER
        if self.secret.provider == "local" and in_cluster:
            yield _LOCAL_IN_CLUSTER
        if self.secret.provider == "local" and "ONEPROTECT_LOCAL_SECRETS_DIR" not in environ:
            yield _NO_LOCAL_DIR


class SettingVariable(Struct, frozen=True):
    """An environment variable, and the field that it fills."""

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
    SettingVariable("ONEPROTECT_ARCHIVE_DAYS", "nats", "archive_days", whole(0, 3650)),
    SettingVariable("ONEPROTECT_ARCHIVE_MAX_BYTES", "nats", "archive_max_bytes", whole(1024**2, 2**60)),
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
    SettingVariable(
        "ONEPROTECT_REQUEST_TIMEOUT_S", "delivery", "request_timeout_s", number(0.1, MAX_TIMEOUT_S, unit="seconds")
    ),
    SettingVariable("ONEPROTECT_MAX_IN_FLIGHT", "delivery", "max_in_flight", whole(1, 16_384)),
    SettingVariable("ONEPROTECT_DESTINATION_MAX_IN_FLIGHT", "delivery", "destination_max_in_flight", whole(1, 1024)),
    SettingVariable("ONEPROTECT_RETRY_SCHEDULE_S", "delivery", "retry_schedule_s", parsers.WAITS),
    SettingVariable("ONEPROTECT_RETRY_JITTER", "delivery", "retry_jitter", number(0, 0.9)),
    SettingVariable(
        "ONEPROTECT_RETRY_AFTER_TIMEOUT_S", "delivery", "retry_after_timeout_s", number(0, 86_400, unit="seconds")
    ),
    SettingVariable("ONEPROTECT_MAX_PAYLOAD_BYTES", "delivery", "max_payload_bytes", whole(1, MAX_PAYLOAD_LIMIT_BYTES)),
    SettingVariable("ONEPROTECT_ACK_WAIT_S", "delivery", "ack_wait_s", number(1, 600, unit="seconds")),
    SettingVariable("ONEPROTECT_DRAIN_TIMEOUT_S", "delivery", "drain_timeout_s", number(0, 600, unit="seconds")),
    SettingVariable("ONEPROTECT_API_HOST", "api", "host", parsers.HOST),
    SettingVariable("ONEPROTECT_API_PORT", "api", "port", whole(0, 65_535)),
    SettingVariable("ONEPROTECT_API_BODY_TIMEOUT_S", "api", "body_timeout_s", number(1, 300, unit="seconds")),
    SettingVariable("ONEPROTECT_API_AUTH_FAILURES", "api", "auth_failures", whole(1, 1_000_000)),
    SettingVariable("ONEPROTECT_API_TRUSTED_PROXIES", "api", "trusted_proxies", parsers.CIDRS),
    SettingVariable("ONEPROTECT_OIDC_ISSUER", "oidc", "issuer", parsers.WEB_URL),
    SettingVariable("ONEPROTECT_OIDC_AUDIENCE", "oidc", "audience", parsers.WORD),
    SettingVariable("ONEPROTECT_OIDC_JWKS_URL", "oidc", "jwks_url", parsers.WEB_URL),
    SettingVariable("ONEPROTECT_OIDC_CA_FILE", "oidc", "ca_file", parsers.FILE),
    SettingVariable("ONEPROTECT_OIDC_ALGORITHMS", "oidc", "algorithms", parsers.ALGORITHMS),
    SettingVariable("ONEPROTECT_OIDC_TENANT_CLAIM", "oidc", "tenant_claim", parsers.WORD),
    SettingVariable("ONEPROTECT_OIDC_ROLES_CLAIM", "oidc", "roles_claim", parsers.WORD),
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
_NAMES: Final = frozenset(variable.name for variable in VARIABLES)


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _unknown(name: str) -> str:
    shown = name if name.isascii() and name.isidentifier() else f"{PREFIX}... (with characters that no setting has)"
    if _SERVICE_LINK.fullmatch(name):
        return f"{shown}: not a setting; {_SERVICE_LINK_HINT}"
    near = difflib.get_close_matches(name.upper(), _NAMES, n=1, cutoff=0.75)
    return f"{shown}: not a setting; " + (f"did you mean {near[0]}?" if near else "unset it")


def _bad(variable: SettingVariable, text: str) -> str:
    hint = _SERVICE_LINK_HINT if text.startswith(("tcp://", "udp://")) else "or unset it for the default"
    return f"{variable.name}: expected {variable.rule.says}; {hint}"
