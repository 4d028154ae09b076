"""Settings: exact variable names, all problems at once, and no values in messages."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneprotect.settings.settings import Settings, SettingsError
from oneprotect.settings.variables import VARIABLES, SettingVariable
from tools import settings_reference

NOT_A_CLUSTER = Path("/nonexistent/token")

VALID: dict[str, tuple[str, object]] = {
    "ONEPROTECT_NATS_URL": ("tls://nats.example:4222", "tls://nats.example:4222"),
    "ONEPROTECT_NATS_CREDS_FILE": ("/etc/nats/consumer.creds", Path("/etc/nats/consumer.creds")),
    "ONEPROTECT_NATS_NKEY_FILE": ("/etc/nats/consumer.nk", Path("/etc/nats/consumer.nk")),
    "ONEPROTECT_NATS_INBOX_PREFIX": ("_INBOX_consumer", "_INBOX_consumer"),
    "ONEPROTECT_NATS_CA_FILE": ("ca.pem", Path("ca.pem")),
    "ONEPROTECT_NATS_REPLICAS": ("3", 3),
    "ONEPROTECT_WORK_PER_TENANT": ("500", 500),
    "ONEPROTECT_WORK_PER_DESTINATION": ("50", 50),
    "ONEPROTECT_ARCHIVE_DAYS": ("7", 7),
    "ONEPROTECT_ARCHIVE_MAX_BYTES": ("1073741824", 1_073_741_824),
    "ONEPROTECT_ATTEMPTS_MAX_BYTES": ("1073741824", 1_073_741_824),
    "ONEPROTECT_EVENTS_MAX_BYTES": ("1048576", 1_048_576),
    "ONEPROTECT_QUARANTINE_MAX_BYTES": ("1048576", 1_048_576),
    "ONEPROTECT_SECRET_PROVIDER": ("kubernetes", "kubernetes"),
    "ONEPROTECT_SECRET_NAMESPACE": ("secrets", "secrets"),
    "ONEPROTECT_SECRET_NAMESPACES_ALLOWED": ("team-a,team-b", ("team-a", "team-b")),
    "ONEPROTECT_SECRET_CACHE_TTL_S": ("30", 30.0),
    "ONEPROTECT_SECRET_MAX_STALE_S": ("0", 0.0),
    "ONEPROTECT_LOCAL_SECRETS_DIR": ("/tmp/secrets", Path("/tmp/secrets")),
    "ONEPROTECT_SECRET_RETRY_SCHEDULE_S": ("0.5,1", (0.5, 1.0)),
    "ONEPROTECT_EGRESS_ALLOW_CIDRS": ("10.1.0.0/16,FD00:0::/8,10.2.0.7", ("10.1.0.0/16", "fd00::/8", "10.2.0.7/32")),
    "ONEPROTECT_EGRESS_ALLOW_HTTP": ("true", True),
    "ONEPROTECT_EGRESS_PORTS": ("443,8000-8999", ((443, 443), (8000, 8999))),
    "ONEPROTECT_EGRESS_CA_FILE": ("/etc/ca.pem", Path("/etc/ca.pem")),
    "ONEPROTECT_EGRESS_PROXY": ("[fd00::1]:4750", ("fd00::1", 4750)),
    "ONEPROTECT_EGRESS_DNS_SERVERS": ("10.0.0.10,[fd00::10]:5353", (("10.0.0.10", 53), ("fd00::10", 5353))),
    "ONEPROTECT_EGRESS_DNS_SEARCH": ("true", True),
    "ONEPROTECT_REQUEST_TIMEOUT_S": ("2.5", 2.5),
    "ONEPROTECT_MAX_IN_FLIGHT": ("64", 64),
    "ONEPROTECT_DESTINATION_MAX_IN_FLIGHT": ("1", 1),
    "ONEPROTECT_RETRY_SCHEDULE_S": ("1,2,4", (1.0, 2.0, 4.0)),
    "ONEPROTECT_RETRY_JITTER": ("0", 0.0),
    "ONEPROTECT_RETRIES_PER_S": ("300", 300),
    "ONEPROTECT_RETRY_AFTER_TIMEOUT_S": ("90", 90.0),
    "ONEPROTECT_MAX_PAYLOAD_BYTES": ("1024", 1024),
    "ONEPROTECT_ACK_WAIT_S": ("5", 5.0),
    "ONEPROTECT_STALL_TIMEOUT_S": ("10", 10.0),
    "ONEPROTECT_STATE_DIR": ("/var/lib/oneprotect", Path("/var/lib/oneprotect")),
    "ONEPROTECT_DRAIN_TIMEOUT_S": ("10", 10.0),
    "ONEPROTECT_API_HOST": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - a value like any other here
    "ONEPROTECT_API_PORT": ("0", 0),
    "ONEPROTECT_API_BODY_TIMEOUT_S": ("2.5", 2.5),
    "ONEPROTECT_TENANT_RATE_PER_S": ("50", 50.0),
    "ONEPROTECT_TENANT_TOKEN_RATE_PER_S": ("0.5", 0.5),
    "ONEPROTECT_TENANT_MAX_CONCURRENT": ("8", 8),
    "ONEPROTECT_TENANT_MAX_STREAMS": ("5", 5),
    "ONEPROTECT_TENANT_MAX_DESTINATIONS": ("6", 6),
    "ONEPROTECT_TENANT_MAX_ORDERED": ("16", 16),
    "ONEPROTECT_TENANT_MAX_CREDENTIALS": ("7", 7),
    "ONEPROTECT_TENANT_MAX_TOKENS": ("8", 8),
    "ONEPROTECT_TENANT_MAX_SESSIONS": ("9", 9),
    "ONEPROTECT_TENANT_MAX_REPLAYS": ("10", 10),
    "ONEPROTECT_TENANT_MAX_WAITING_BYTES": ("1048576", 1_048_576),
    "ONEPROTECT_TENANT_MAX_FAILED_BYTES": ("2097152", 2_097_152),
    "ONEPROTECT_TENANT_MAX_NAMED_IDS": ("11", 11),
    "ONEPROTECT_IDEMPOTENCY_WINDOW_S": ("3600", 3600),
    "ONEPROTECT_TENANT_ARCHIVE_SHARE": ("0.5", 0.5),
    "ONEPROTECT_OIDC_ISSUER": ("https://login.example.com/realm", "https://login.example.com/realm"),
    "ONEPROTECT_OIDC_AUDIENCE": ("oneprotect", "oneprotect"),
    "ONEPROTECT_OIDC_JWKS_URL": ("http://127.0.0.1:9000/keys", "http://127.0.0.1:9000/keys"),
    "ONEPROTECT_OIDC_CA_FILE": ("/etc/idp.pem", Path("/etc/idp.pem")),
    "ONEPROTECT_OIDC_ALGORITHMS": ("ES256,EdDSA", ("ES256", "EdDSA")),
    "ONEPROTECT_OIDC_TENANT_CLAIM": ("https://example.com/tenant", "https://example.com/tenant"),
    "ONEPROTECT_OIDC_ROLES_CLAIM": ("groups", "groups"),
    "ONEPROTECT_API_AUTH_FAILURES": ("5", 5),
    "ONEPROTECT_API_MAX_CONNECTIONS": ("100", 100),
    "ONEPROTECT_API_MAX_CONNECTIONS_PER_CLIENT": ("10", 10),
    "ONEPROTECT_API_TRUSTED_PROXIES": ("10.0.0.0/8", ("10.0.0.0/8",)),
    "ONEPROTECT_OPS_HOST": ("::1", "::1"),
    "ONEPROTECT_OPS_PORT": ("9090", 9090),
    "ONEPROTECT_METRICS_TENANTS_MAX": ("50", 50),
    "ONEPROTECT_TRACE_SLOW_S": ("0.5", 0.5),
    "ONEPROTECT_LOG_LEVEL": ("WARNING", "warning"),
    "ONEPROTECT_LOG_FORMAT": ("console", "console"),
    "ONEPROTECT_LOG_ATTEMPTS": ("all", "all"),
}

BAD = [
    ("ONEPROTECT_NATS_URL", "nats://user:canary@nats:4222"),
    ("ONEPROTECT_NATS_URL", "http://nats:4222"),
    ("ONEPROTECT_NATS_URL", "nats://nats:0"),
    ("ONEPROTECT_NATS_URL", "nats://nats:99999"),
    ("ONEPROTECT_NATS_URL", "nats://[1]:4222"),
    ("ONEPROTECT_NATS_URL", "nats://[::1]:4222:1"),
    ("ONEPROTECT_NATS_CREDS_FILE", ""),
    ("ONEPROTECT_OIDC_ISSUER", "http://login.example.com"),
    ("ONEPROTECT_OIDC_ISSUER", "https://user:canary@login.example.com"),
    ("ONEPROTECT_OIDC_ALGORITHMS", "HS256"),
    ("ONEPROTECT_OIDC_AUDIENCE", "two words"),
    ("ONEPROTECT_NATS_INBOX_PREFIX", ">"),
    ("ONEPROTECT_NATS_INBOX_PREFIX", "_INBOX.*"),
    ("ONEPROTECT_NATS_INBOX_PREFIX", "inbox"),
    ("ONEPROTECT_NATS_REPLICAS", "0"),
    ("ONEPROTECT_NATS_REPLICAS", "٣"),
    ("ONEPROTECT_SECRET_PROVIDER", "Kubernetes"),
    ("ONEPROTECT_SECRET_NAMESPACE", "Team_A"),
    ("ONEPROTECT_SECRET_NAMESPACE", ""),
    ("ONEPROTECT_SECRET_NAMESPACES_ALLOWED", "a,,b"),
    ("ONEPROTECT_SECRET_NAMESPACES_ALLOWED", "*"),
    ("ONEPROTECT_SECRET_CACHE_TTL_S", "-1"),
    ("ONEPROTECT_SECRET_CACHE_TTL_S", "nan"),
    ("ONEPROTECT_SECRET_CACHE_TTL_S", "1e3"),
    ("ONEPROTECT_EGRESS_ALLOW_CIDRS", "10.1.0.1/16"),
    ("ONEPROTECT_EGRESS_ALLOW_CIDRS", "10.0.0.0/255.0.0.0"),
    ("ONEPROTECT_EGRESS_ALLOW_CIDRS", "fe80::%eth0/64"),
    ("ONEPROTECT_EGRESS_ALLOW_HTTP", "yes"),
    ("ONEPROTECT_EGRESS_PROXY", "http://proxy:4750"),
    ("ONEPROTECT_EGRESS_PROXY", "proxy"),
    ("ONEPROTECT_EGRESS_PROXY", "proxy:0"),
    ("ONEPROTECT_EGRESS_PROXY", "fd00::1:4750"),
    ("ONEPROTECT_EGRESS_PROXY", "[proxy]:4750"),
    ("ONEPROTECT_EGRESS_DNS_SERVERS", ""),
    ("ONEPROTECT_EGRESS_DNS_SERVERS", "dns.example.com"),
    ("ONEPROTECT_EGRESS_DNS_SERVERS", "10.0.0.10:0"),
    ("ONEPROTECT_EGRESS_DNS_SERVERS", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"),
    ("ONEPROTECT_EGRESS_PORTS", ""),
    ("ONEPROTECT_EGRESS_PORTS", ","),
    ("ONEPROTECT_EGRESS_PORTS", "https"),
    ("ONEPROTECT_EGRESS_PORTS", "1-2-3"),
    ("ONEPROTECT_EGRESS_PORTS", "-1"),
    ("ONEPROTECT_EGRESS_PORTS", "*"),
    ("ONEPROTECT_EGRESS_PORTS", "\uff14\uff14\uff13"),
    ("ONEPROTECT_EGRESS_PORTS", "0"),
    ("ONEPROTECT_EGRESS_PORTS", "9000-8000"),
    ("ONEPROTECT_EGRESS_PORTS", "1-65536"),
    ("ONEPROTECT_REQUEST_TIMEOUT_S", "31"),
    ("ONEPROTECT_RETRY_SCHEDULE_S", ""),
    ("ONEPROTECT_RETRY_SCHEDULE_S", "1,0"),
    ("ONEPROTECT_RETRY_SCHEDULE_S", "259201"),
    ("ONEPROTECT_RETRY_SCHEDULE_S", ",".join(["1"] * 33)),
    ("ONEPROTECT_RETRY_JITTER", "1"),
    ("ONEPROTECT_API_HOST", "-host"),
    ("ONEPROTECT_API_PORT", "65536"),
    ("ONEPROTECT_OPS_HOST", "0.0.0.0:9090"),
    ("ONEPROTECT_OPS_PORT", "-1"),
    ("ONEPROTECT_METRICS_TENANTS_MAX", "all"),
    ("ONEPROTECT_LOG_LEVEL", "verbose"),
    ("ONEPROTECT_LOG_FORMAT", "JSON"),
    ("ONEPROTECT_LOG_ATTEMPTS", "some"),
]

CLOSED = [
    v
    for v in VARIABLES
    if not v.name.endswith(("_FILE", "_DIR", "_HOST", "_NAMESPACE", "_ALLOWED", "_AUDIENCE", "_CLAIM"))
]


def load(environ: dict[str, str], *, resolves_secrets: bool = False) -> Settings:
    return Settings.load(environ, resolves_secrets=resolves_secrets, token_file=NOT_A_CLUSTER)


def problems_of(environ: dict[str, str], *, resolves_secrets: bool = False) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(environ, resolves_secrets=resolves_secrets)
    assert caught.value.__context__ is None
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def field_of(settings: Settings, name: str) -> object:
    variable = next(variable for variable in VARIABLES if variable.name == name)
    return getattr(getattr(settings, variable.group), variable.field)


def test_defaults() -> None:
    """Settings without any variable have the defaults of the contract."""
    settings = load({"PATH": "/bin", "OTEL_SERVICE_NAME": "x"})

    assert settings == Settings()
    assert (settings.secret.cache_ttl_s, settings.secret.max_stale_s) == (60, 300)
    assert list(settings.secret.retry_schedule_s) == [30, 60, 300, 900, 3600]
    assert (settings.egress.allow_http, settings.egress.ports) == (False, ((443, 443),))
    assert (settings.delivery.max_in_flight, settings.delivery.destination_max_in_flight) == (256, 8)
    assert list(settings.delivery.retry_schedule_s) == [5, 300, 1800, 7200, 18000, 36000, 36000]
    assert settings.delivery.max_payload_bytes == 262_144
    assert settings.nats.work_per_destination == 1000
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8080)


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
def test_each_variable_fills_its_field(name: str) -> None:
    """Each variable sets its own field, with the declared type, and no other field."""
    text, expected = VALID[name]

    settings = load({name: text})

    assert field_of(settings, name) == expected
    others = [other.name for other in VARIABLES if other.name != name]
    assert [field_of(settings, other) for other in others] == [field_of(Settings(), other) for other in others]
    assert msgspec.convert(settings, Settings, from_attributes=True) == settings


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
@pytest.mark.parametrize("template", [" {}", "{} ", "{}\n"])
def test_values_are_not_trimmed(name: str, template: str) -> None:
    """A space or line end around a value makes it invalid, and the problem names the variable."""
    text, _ = VALID[name]

    (problem,) = problems_of({name: template.format(text)})

    assert problem.startswith(f"{name}: expected ")


@pytest.mark.parametrize(("name", "text"), BAD)
def test_an_invalid_value_is_refused_without_repeating_it(name: str, text: str) -> None:
    """The problem names the variable and does not repeat the value."""
    (problem,) = problems_of({name: text})

    assert problem.startswith(f"{name}: expected ")
    assert "canary" not in problem


def test_empty_lists() -> None:
    """A list without a minimum length may be empty."""
    settings = load({"ONEPROTECT_EGRESS_ALLOW_CIDRS": "", "ONEPROTECT_SECRET_NAMESPACES_ALLOWED": ""})

    assert settings == Settings()


@given(st.sampled_from(CLOSED), st.text(max_size=60))
def test_values_are_never_repeated(variable: SettingVariable, noise: str) -> None:
    """The problem of a variable is the same for every invalid value, so it cannot repeat the value."""
    (expected,) = problems_of({variable.name: "\n"})

    (problem,) = problems_of({variable.name: f"canary{noise}"})

    assert problem == expected


def test_all_problems_at_once() -> None:
    """One error lists unknown variables, invalid values and missing variables."""
    problems = problems_of(
        {
            "ONEPROTECT_API_PORT": "http",
            "ONEPROTECT_NATS_REPLICA": "3",
            "ONEPROTECT_LOG_FORMAT": "xml",
            "ONEPROTECT_FROBNICATE": "1",
        },
        resolves_secrets=True,
    )

    assert [problem.partition(":")[0] for problem in problems] == [
        "ONEPROTECT_FROBNICATE",
        "ONEPROTECT_NATS_REPLICA",
        "ONEPROTECT_API_PORT",
        "ONEPROTECT_LOG_FORMAT",
        "ONEPROTECT_SECRET_PROVIDER",
    ]


def test_misspelt_name() -> None:
    """The problem of a misspelt variable suggests a similar name, if there is one."""
    near, far, lower = problems_of(
        {"ONEPROTECT_RETRY_SCHEDULE": "1", "oneprotect_api_port": "80", "ONEPROTECT_X": "whsec_canary"}
    )

    assert far == "ONEPROTECT_X: not a setting; unset it"
    assert near == "ONEPROTECT_RETRY_SCHEDULE: not a setting; did you mean ONEPROTECT_RETRY_SCHEDULE_S?"
    assert lower == "oneprotect_api_port: not a setting; did you mean ONEPROTECT_API_PORT?"


def test_strange_name() -> None:
    """A variable name with control characters is not printed."""
    (problem,) = problems_of({"ONEPROTECT_\nINFO forged": "1"})

    assert "\n" not in problem
    assert "forged" not in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ONEPROTECT_API_PORT", "tcp://10.0.0.1:8080"),
        ("ONEPROTECT_API_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("ONEPROTECT_API_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_service_links(name: str, text: str) -> None:
    """The problem of a variable that Kubernetes injects for a Service says how to disable the injection."""
    (problem,) = problems_of({name: text})

    assert "enableServiceLinks: false" in problem


def test_provider_is_required_to_resolve() -> None:
    """Only a command that resolves secrets requires a provider."""
    settings = load({})

    (problem,) = problems_of({}, resolves_secrets=True)
    with pytest.raises(SettingsError, match="ONEPROTECT_SECRET_PROVIDER: required"):
        settings.require_provider()

    assert problem.startswith("ONEPROTECT_SECRET_PROVIDER: required")


def test_local_needs_a_directory() -> None:
    """The local provider requires its directory."""
    (problem,) = problems_of({"ONEPROTECT_SECRET_PROVIDER": "local"})
    settings = load(
        {"ONEPROTECT_SECRET_PROVIDER": "local", "ONEPROTECT_LOCAL_SECRETS_DIR": "secrets"}, resolves_secrets=True
    )

    assert problem.startswith("ONEPROTECT_LOCAL_SECRETS_DIR: required")
    assert settings.require_provider().provider == "local"
    assert settings.require_provider().local_dir == Path("secrets")


@pytest.mark.parametrize("sign", ["variable", "token file"])
def test_local_is_refused_inside_a_cluster(tmp_path: Path, sign: str) -> None:
    """A service account or a cluster variable is enough to refuse the local provider."""
    token_file = tmp_path / "token"
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if sign == "variable" else {}
    if sign == "token file":
        token_file.touch()
    local = {"ONEPROTECT_SECRET_PROVIDER": "local", "ONEPROTECT_LOCAL_SECRETS_DIR": "secrets"}

    with pytest.raises(SettingsError) as caught:
        Settings.load({**environ, **local}, token_file=token_file)
    settings = Settings.load({**environ, "ONEPROTECT_SECRET_PROVIDER": "kubernetes"}, token_file=token_file)

    assert "`local` is refused inside a cluster" in caught.value.problems[0]
    assert settings.require_provider().provider == "kubernetes"


def test_namespaces() -> None:
    """The central namespace and the allowed ones may be read, and no others."""
    both = load({"ONEPROTECT_SECRET_NAMESPACE": "central", "ONEPROTECT_SECRET_NAMESPACES_ALLOWED": "a,b"})

    assert both.secret.namespaces == {"central", "a", "b"}
    assert load({}).secret.namespaces == frozenset()


def test_reference_is_fresh() -> None:
    """The settings reference is up to date and describes the effect of each variable."""
    page = settings_reference.page()
    rows = [line for line in page.splitlines() if line.startswith("| `ONEPROTECT_")]

    assert Path("docs/reference/settings.md").read_text() == page, "run: make generate"
    assert [row.split("`")[1] for row in rows] == [variable.name for variable in VARIABLES]
    assert all(len(row.split("|")[4].strip()) > 20 for row in rows)


def test_every_field_can_be_set() -> None:
    """Every field has a variable, and every variable starts with the product's prefix."""
    fields = {
        (group, field)
        for group in Settings().__struct_fields__
        for field in getattr(Settings(), group).__struct_fields__
    }

    assert {(variable.group, variable.field) for variable in VARIABLES} == fields
    assert all(variable.name.startswith("ONEPROTECT_") for variable in VARIABLES)


def test_two_kinds_of_nats_credentials_conflict() -> None:
    """Setting both a credentials file and an NKey file is a problem."""
    (problem,) = problems_of({"ONEPROTECT_NATS_CREDS_FILE": "a.creds", "ONEPROTECT_NATS_NKEY_FILE": "a.nk"})

    assert problem.startswith("ONEPROTECT_NATS_NKEY_FILE: conflicts with ONEPROTECT_NATS_CREDS_FILE")
