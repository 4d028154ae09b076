"""Privileges: consumers get the named Secrets, and no other permission exists."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import Rendered
from tests.chart.searching import of_kind, one, pod_of, values_in
from tools.chart import NAMESPACE, VALUES, ChartError, render
from tools.chart_files import CHART

EVERY = pytest.mark.parametrize("name", VALUES)


@EVERY
def test_the_only_permission_is_to_get_secrets_by_name(rendered: Rendered, name: str) -> None:
    """Every rule of every rendering is `get` on Secrets, of those names that the values list, and of no more."""
    values = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())["secrets"]
    places = [(values["namespace"], values["resourceNames"])]
    places += [(place["namespace"], place["resourceNames"]) for place in values.get("additionalNamespaces", [])]

    roles = of_kind(rendered[name], "Role")

    granted = [(role["metadata"]["namespace"], role["rules"]) for role in roles]
    assert granted == [
        (namespace, [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": names}])
        for namespace, names in places
    ]


@EVERY
def test_only_the_consumers_account_is_bound(rendered: Rendered, name: str) -> None:
    """Each Role has one binding, to the account that the consumers run as."""
    consumer = pod_of(of_kind(rendered[name], "Deployment")[-1])["serviceAccountName"]
    assert consumer.endswith("-consumer")

    bindings = of_kind(rendered[name], "RoleBinding")

    assert len(bindings) == len(of_kind(rendered[name], "Role")) >= 1
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": consumer, "namespace": NAMESPACE}]
        role = binding["roleRef"]
        assert role["kind"] == "Role"
        one(rendered[name], "Role", role["name"], binding["metadata"]["namespace"])


@EVERY
def test_roles_read_only_named_secrets(rendered: Rendered, name: str) -> None:
    """No role has `list`, `watch`, `*`, a ClusterRole, or a Secret of the chart."""
    kinds = {manifest["kind"] for manifest in rendered[name]}
    verbs = [value for key, value in values_in(rendered[name]) if key == "verbs"]

    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "Secret"}
    assert verbs
    assert all(verb == ["get"] for verb in verbs)
    assert "stringData" not in {key for key, _ in values_in(rendered[name])}


NO_NAMES: list[tuple[dict[str, Any], str]] = [
    ({"resourceNames": []}, "secrets.resourceNames is empty"),
    ({"resourceNames": None}, "secrets.resourceNames is empty"),
    (
        {"additionalNamespaces": [{"namespace": "webhooks-eu", "resourceNames": []}]},
        "secrets.additionalNamespaces[0].resourceNames is empty",
    ),
]


@pytest.mark.parametrize(("secrets", "named"), NO_NAMES)
@pytest.mark.parametrize("options", [(), ("--skip-schema-validation",)], ids=["checked", "unchecked"])
def test_an_empty_list_of_names_renders_nothing(
    binary: Path, secrets: dict[str, Any], named: str, options: tuple[str, ...]
) -> None:
    """The chart refuses an empty list, which Kubernetes reads as every Secret, even without the schema."""
    with pytest.raises(ChartError) as refused:
        render(binary, "minimal", {"secrets": secrets}, options=options)

    assert named in str(refused.value)


def test_names_may_not_be_patterns_or_all(binary: Path) -> None:
    """A name is a name: neither `*` nor an empty one."""
    for bad in ("*", "", "Acme", "a/b"):
        with pytest.raises(ChartError, match=r"secrets.resourceNames.0"):
            render(binary, "minimal", {"secrets": {"resourceNames": [bad]}})


@EVERY
def test_only_consumers_have_a_token_and_it_is_short_lived(rendered: Rendered, name: str) -> None:
    """No account or pod mounts a token by itself; the consumer's pod has a projected one, for an hour."""
    for account in of_kind(rendered[name], "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False

    workloads = of_kind(rendered[name], "Deployment", "Job")
    with_token = {}
    for workload in workloads:
        assert pod_of(workload)["automountServiceAccountToken"] is False
        sources = [source for v in pod_of(workload)["volumes"] for source in v.get("projected", {}).get("sources", [])]
        if tokens := [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]:
            with_token[workload["metadata"]["labels"]["app.kubernetes.io/component"]] = tokens

    assert with_token == {"consumer": [{"path": "token", "expirationSeconds": 3600}]}
    accounts = [pod_of(workload)["serviceAccountName"] for workload in workloads]
    assert len(set(accounts)) == len(accounts)
    for account in accounts:
        one(rendered[name], "ServiceAccount", account)


def test_each_role_mounts_its_own_nats_credentials(rendered: Rendered) -> None:
    """Credentials are a file of one role that only the pod's user reads, and never a variable."""
    for name in ("minimal", "gateway"):
        values = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())["nats"]["credentials"]
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())["nats"]["credentials"]
        for workload in of_kind(rendered[name], "Deployment", "Job"):
            role = workload["metadata"]["labels"]["app.kubernetes.io/component"]
            mounted = [v["secret"] for v in pod_of(workload)["volumes"] if v["name"] == "nats-credentials"]

            assert mounted == [
                {
                    "secretName": values[role]["secretName"],
                    "defaultMode": 0o400,
                    "items": [{"key": {**defaults[role], **values[role]}["key"], "path": "credentials"}],
                }
            ]
    for manifests in rendered.values():
        keys = {key for key, _ in values_in(manifests)}
        assert not keys & {"secretKeyRef", "envFrom", "configMapKeyRef", "secretRef"}
