"""Values: bad values are refused by name, and no value can contain a secret."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from oneprotect.settings.variables import VARIABLES
from tools.chart import VALUES, ChartError, render
from tools.chart_files import CHART, SET_BY_THE_CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())

CALLERS: dict[str, Any] = {"networkPolicy": {"api": {"from": [{"namespace": "ingress"}]}}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"consumers": {}}, "consumers"),
    ({"image": {"repository": ""}}, "image.repository is empty"),
    ({"image": {"digest": "sha256:12"}}, "image.digest"),
    ({"image": {"tag": "a b"}}, "image.tag"),
    ({"image": {"pullPolicy": "Sometimes"}}, "image.pullPolicy"),
    ({"commonLabels": {"team": True}}, "commonLabels.team"),
    ({"commonLabels": {"team": "a b"}}, "commonLabels.team"),
    ({"nats": {"url": ""}}, "nats.url is empty"),
    ({"nats": {"url": "http://nats"}}, "nats.url"),
    ({"nats": {"url": "nats://user:password@nats:4222"}}, "nats.url"),
    ({"nats": {"replicas": 0}}, "nats.replicas"),
    ({"nats": {"password": "x"}}, "password"),
    ({"nats": {"credentials": {"consumer": {"secretName": ""}}}}, "nats.credentials.consumer.secretName is empty"),
    ({"nats": {"credentials": {"api": {"secretName": ""}}}}, "nats.credentials.api.secretName is empty"),
    ({"nats": {"credentials": {"apply": {"secretName": ""}}}}, "nats.credentials.apply.secretName is empty"),
    ({"nats": {"credentials": {"replayer": {"secretName": "x"}}}}, "replayer"),
    ({"nats": {"ca": {"kind": "File"}}}, "nats.ca.kind"),
    ({"secrets": {"provider": "local"}}, "secrets.provider"),
    ({"secrets": {"namespace": ""}}, "secrets.namespace is empty"),
    ({"secrets": {"namespace": "Web"}}, "secrets.namespace"),
    ({"secrets": {"resourceNames": ["a", "a"]}}, "secrets.resourceNames"),
    ({"secrets": {"values": {"acme": "x"}}}, "values"),
    (
        {"secrets": {"additionalNamespaces": [{"namespace": "webhooks", "resourceNames": ["x"]}]}},
        "secrets.additionalNamespaces names webhooks twice",
    ),
    ({"egress": {"ports": []}}, "egress.ports"),
    ({"egress": {"ports": ["https"]}}, "egress.ports.0"),
    ({"egress": {"proxy": "http://proxy:4750"}}, "egress.proxy"),
    ({"egress": {"proxy": "proxy:4750"}}, "networkPolicy.proxy.namespace"),
    ({"settings": {"ONEPROTECT_OIDC_ISSUER": "https://login.example.com"}}, "networkPolicy.issuer.namespace"),
    ({"nats": {"credentialsKind": "password"}}, "nats.credentialsKind"),
    ({"egress": {"allowCidrs": ["10.0.0.0"]}}, "egress.allowCidrs.0"),
    ({"settings": {"ONEPROTECT_LOG_LEVLE": "info"}}, "ONEPROTECT_LOG_LEVLE"),
    ({"settings": {"ONEPROTECT_NATS_URL": "nats://x"}}, "ONEPROTECT_NATS_URL"),
    ({"settings": {"AWS_SECRET_ACCESS_KEY": "x"}}, "AWS_SECRET_ACCESS_KEY"),
    ({"settings": {"ONEPROTECT_REQUEST_TIMEOUT_S": 10}}, "settings.ONEPROTECT_REQUEST_TIMEOUT_S"),
    ({"telemetry": {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=x"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
    (
        {"telemetry": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:pass@host"}},
        "telemetry.OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    ({"telemetry": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://host?key=x"}}, "telemetry.OTEL_EXPORTER_OTLP_ENDPOINT"),
    ({"consumer": {"replicas": 0}}, "consumer.replicas"),
    ({"consumer": {"extraEnv": [{"name": "TOKEN", "value": "x"}]}}, "extraEnv"),
    ({"consumer": {"resources": {"limits": {"memory": "much"}}}}, "consumer.resources.limits.memory"),
    ({"consumer": {"drainTimeoutSeconds": 0}}, "consumer.drainTimeoutSeconds"),
    ({"api": {"servicePort": 70000}}, "api.servicePort"),
    ({"apply": {"mode": "later"}}, "apply.mode"),
    ({"autoscaling": {"type": "both"}}, "autoscaling.type"),
    ({"autoscaling": {"type": ["hpa", "keda"]}}, "autoscaling.type"),
    ({"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}, "enabled"),
    ({"autoscaling": {"minReplicas": 0}}, "autoscaling.minReplicas"),
    ({"autoscaling": {"type": "hpa", "minReplicas": 9, "maxReplicas": 3}}, "autoscaling.minReplicas is more"),
    ({"autoscaling": {"type": "keda"}}, "autoscaling.keda.monitoringEndpoint is empty"),
    ({"autoscaling": {"keda": {"account": ""}}}, "autoscaling.keda.account"),
    ({"autoscaling": {"keda": {"monitoringEndpoint": "http://nats:8222"}}}, "autoscaling.keda.monitoringEndpoint"),
    ({"networkPolicy": {"nats": {"namespace": "", "cidrs": []}}}, "networkPolicy.nats.namespace"),
    ({"networkPolicy": {"apiServer": {"cidrs": ["any"]}}}, "networkPolicy.apiServer.cidrs.0"),
    ({"nack": {"enabled": True}}, "nack"),
    ({"ingress": {"enabled": True, "host": "a.example"}}, "networkPolicy.api.from is empty"),
    ({"ingress": {"enabled": True}, **CALLERS}, "ingress.host is empty"),
    ({"httpRoute": {"enabled": True}, **CALLERS}, "httpRoute.parentRefs is empty"),
    ({"ingress": {"enabled": True, "host": "a.example"}, "api": {"enabled": False}}, "without api.enabled"),
    ({"externalSecrets": {"enabled": True}}, "externalSecrets.store.name is empty"),
    (
        {
            "externalSecrets": {
                "enabled": True,
                "store": {"name": "s"},
                "secrets": [{"name": "other", "tenant": "a", "key": "k"}],
            }
        },
        "externalSecrets.secrets: other is not in secrets.resourceNames",
    ),
    (
        {"externalSecrets": {"secrets": [{"name": "acme-signing", "tenant": "a", "key": "k", "previous": {}}]}},
        "externalSecrets.secrets.0.previous",
    ),
    ({"metrics": {"interval": "often"}}, "metrics.interval"),
]


@pytest.mark.parametrize(("values", "named"), BAD, ids=[named for _, named in BAD])
def test_a_bad_value_is_refused_by_its_name(helm_3: Path, helm_4: Path, values: dict[str, Any], named: str) -> None:
    """Rendering fails with a message that names the value, with both Helm versions."""
    for helm in (helm_3, helm_4):
        with pytest.raises(ChartError) as refused:
            render(helm, "minimal", values)

        assert named in str(refused.value).replace("/", ".")


PASTED = (
    "whsec_C2FVsBQIhrscChlQIMV",
    "whsk_dGVzdA",
    "-----BEGIN NATS USER JWT-----",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6.x.y",
    "SUA" + "B" * 55,
    "AKIA" + "A" * 16,
)


@pytest.mark.parametrize("pasted", PASTED)
def test_a_pasted_key_is_refused_and_not_repeated(binary: Path, pasted: str) -> None:
    """A value that looks like a key stops the rendering, and the message does not repeat it."""
    with pytest.raises(ChartError, match="looks like a key or a token") as refused:
        render(binary, "minimal", {"consumer": {"podAnnotations": {"note": pasted}}})

    assert pasted not in str(refused.value)


def test_the_schema_is_closed() -> None:
    """Every mapping of the schema has named or typed keys, except Helm's own `global`."""
    open_ones = [
        path
        for path, node in nodes(SCHEMA)
        if node.get("type") == "object" and node.get("additionalProperties", True) is True
    ]

    assert open_ones == ["/properties/global"]
    assert ".Values.global" not in "".join(path.read_text() for path in (CHART / "templates").iterdir())


def test_every_value_has_a_schema_and_every_schema_a_value() -> None:
    """`values.yaml` and the schema have identical keys."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    assert SCHEMA["properties"].keys() - {"global"} == defaults.keys()
    for name, default in defaults.items():
        properties = resolved(SCHEMA["properties"][name]).get("properties")
        if properties and name not in ("settings", "telemetry"):
            assert properties.keys() == default.keys(), name


def test_settings_are_those_of_the_program() -> None:
    """Each setting is a value of the chart or a key of `settings`."""
    free = SCHEMA["properties"]["settings"]["properties"].keys()

    assert not free & SET_BY_THE_CHART
    assert {variable.name for variable in VARIABLES} <= free | SET_BY_THE_CHART
    assert "ONEPROTECT_LOG_LEVEL" in free
    assert [name for name in free if name.endswith(("_FILE", "_DIR"))] == [], "a file needs a volume: give it a value"


def test_no_value_can_contain_a_secret() -> None:
    """Names that mention secrets refer to Secret objects or to the way they are read."""
    speaking = {
        path.rpartition("/")[2]
        for path, _ in nodes(SCHEMA)
        if any(word in path.rpartition("/")[2].lower() for word in ("secret", "token", "password", "key", "credential"))
    }

    assert speaking == {
        "secrets", "secretName", "secretNames", "pullSecrets", "tlsSecretName", "externalSecrets", "credentials",
        "credentialsFile", "credentialsKind", "key", "dataKey", "ONEPROTECT_SECRET_RETRY_SCHEDULE_S",
        "ONEPROTECT_TENANT_TOKEN_RATE_PER_S", "ONEPROTECT_TENANT_MAX_CREDENTIALS", "ONEPROTECT_TENANT_MAX_TOKENS",
    }  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_each_values_file_renders(binary: Path, name: str) -> None:
    """Rendering needs no cluster and no other file."""
    assert render(binary, name)


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """A schema, or the definition that it refers to."""
    reference = node.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else node


def nodes(node: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of the schema, with its path."""
    if isinstance(node, dict):
        yield path, cast("dict[str, Any]", node)
        for key, value in cast("dict[str, Any]", node).items():
            yield from nodes(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(cast("list[object]", node)):
            yield from nodes(value, f"{path}/{index}")
