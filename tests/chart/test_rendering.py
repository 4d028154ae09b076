"""Rendered manifests: valid, identical with both Helm versions, quoted, ordered and minimal."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import Rendered
from tests.chart.searching import of_kind, one, values_in
from tools.chart import VALUES, lint, render
from tools.chart_files import CHART
from tools.get_helm import ROOT
from tools.manifests import identity, problems

EVERY = pytest.mark.parametrize("name", VALUES)
KINDS_OF_OTHERS = {
    "minimal": set[str](),
    "plain": set[str](),
    "gateway": {"HTTPRoute"},
    "full": {"ScaledObject", "ExternalSecret", "PodMonitor", "ServiceMonitor", "PrometheusRule"},
}


@EVERY
def test_every_manifest_is_valid(rendered: Rendered, name: str) -> None:
    """Manifests are valid for the oldest supported Kubernetes and for a new version."""
    assert list(problems(rendered[name])) == []


@EVERY
def test_helm_3_and_helm_4_render_alike(helm_3: Path, helm_4: Path, name: str) -> None:
    """Both Helm versions render identical manifests."""
    three, four = (sorted(render(each, name), key=identity) for each in (helm_3, helm_4))

    assert three == four
    lint(helm_3, name)
    lint(helm_4, name)


@EVERY
def test_rendering_is_deterministic(binary: Path, rendered: Rendered, name: str) -> None:
    """A GitOps controller sees no change without a change of values."""
    assert render(binary, name) == rendered[name]


@EVERY
def test_names_are_unique_and_labels_are_strings(rendered: Rendered, name: str) -> None:
    """No two manifests have one identity, and every label and annotation is a string."""
    identities = [identity(manifest) for manifest in rendered[name]]
    assert len(set(identities)) == len(identities)

    maps: list[dict[str, Any]] = [
        value
        for key, value in values_in(rendered[name])
        if key in ("labels", "annotations", "matchLabels", "nodeSelector") and isinstance(value, dict)
    ]
    assert len(maps) >= len(identities)
    assert [value for one_map in maps for value in one_map.values() if not isinstance(value, str)] == []
    for manifest in rendered[name]:
        assert manifest["metadata"]["labels"].keys() >= {"app.kubernetes.io/name", "app.kubernetes.io/managed-by"}


def test_a_long_release_name_makes_no_name_too_long(binary: Path) -> None:
    """Names and labels fit with a release name of 53 characters, Helm's maximum."""
    manifests = render(binary, "full", release="r" * 53)

    assert list(problems(manifests, ["1.36"])) == []
    names = [m["metadata"]["name"] for m in of_kind(manifests, "Deployment", "Job", "Service", "ServiceAccount")]
    assert max(map(len, names)) <= 63
    assert {name.rpartition("-")[2] for name in names} == {"api", "apply", "consumer"}


def test_ambiguous_values_stay_strings(rendered: Rendered) -> None:
    """Labels, annotations and names such as `y`, `0042` and `42` stay strings."""
    consumer = one(rendered["full"], "Deployment", "oneprotect-consumer")
    metadata = consumer["spec"]["template"]["metadata"]

    assert consumer["metadata"]["labels"].items() >= {"team": "y", "cost-centre": "0042"}.items()
    assert metadata["labels"]["spot"] == "no"
    assert metadata["annotations"] == {"example.com/since": "2026-11-25"}
    tenants = {
        secret["metadata"]["name"]: secret["spec"]["target"]["template"]["metadata"]["labels"]["oneprotect.io/tenant"]
        for secret in of_kind(rendered["full"], "ExternalSecret")
    }
    assert tenants == {"acme-signing": "acme", "globex.signing": "globex", "42": "42", "true": "true"}


def test_common_labels_do_not_replace_selector_labels(binary: Path) -> None:
    """A common label with the name of a selector label changes no selector and no pod."""
    manifests = render(binary, "minimal", {"commonLabels": {"app.kubernetes.io/component": "web"}})

    for workload in of_kind(manifests, "Deployment"):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] in ("consumer", "api")


@EVERY
def test_kinds_of_other_projects_are_optional(rendered: Rendered, name: str) -> None:
    """Kinds of other projects appear only with the values that enable them."""
    foreign = {
        manifest["kind"]
        for manifest in rendered[name]
        if "." in manifest["apiVersion"] and not re.search(r"\.k8s\.io/v1$", manifest["apiVersion"])
    } | {manifest["kind"] for manifest in of_kind(rendered[name], "HTTPRoute")}

    assert foreign == KINDS_OF_OTHERS[name]


def test_large_numbers_are_not_written_with_an_exponent(rendered: Rendered) -> None:
    """Helm reads numbers as floats, but a million does not become `1e+06`."""
    text = json.dumps(rendered)

    assert '"1000000"' in text
    assert re.search(r"[0-9]e\+[0-9]", text) is None


def test_streams_are_created_before_consumers_start(rendered: Rendered) -> None:
    """The hook Job runs before installs and upgrades, after its account and its network policy."""
    hooks = [m for m in rendered["minimal"] if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    order = sorted(hooks, key=lambda m: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]))

    assert [m["kind"] for m in order[-1:]] == ["Job"]
    assert {m["kind"] for m in order[:-1]} == {"ServiceAccount", "NetworkPolicy"}
    weights = {m["kind"]: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]) for m in hooks}
    assert max(weight for kind, weight in weights.items() if kind != "Job") < weights["Job"]
    for hook in hooks:
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_a_changed_plain_job_gets_a_new_name(binary: Path, rendered: Rendered) -> None:
    """Jobs are immutable, so the name of a Job without a hook follows its content."""
    (before,) = of_kind(rendered["plain"], "Job")
    (same,) = of_kind(render(binary, "plain", {"consumer": {"replicas": 2}}), "Job")
    (other,) = of_kind(render(binary, "plain", {"nats": {"replicas": 3}}), "Job")

    assert before["metadata"]["name"] == same["metadata"]["name"] != other["metadata"]["name"]
    assert "helm.sh/hook" not in json.dumps(rendered["plain"])


def test_at_most_one_autoscaler_exists(rendered: Rendered) -> None:
    """The Deployment sets a number of pods only without an autoscaler."""
    scalers = {
        name: [m["kind"] for m in of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler")]
        for name, manifests in rendered.items()
    }
    fixed = {
        name: "replicas"
        in next(m for m in of_kind(manifests, "Deployment") if "consumer" in m["metadata"]["name"])["spec"]
        for name, manifests in rendered.items()
    }

    assert scalers == {"minimal": [], "plain": [], "gateway": ["HorizontalPodAutoscaler"], "full": ["ScaledObject"]}
    assert fixed == {"minimal": True, "plain": True, "gateway": False, "full": False}


def test_keda_watches_the_durable_consumers(rendered: Rendered) -> None:
    """KEDA has one trigger for each durable consumer of the program."""
    from schemas.streams import ALL_CONSUMERS

    triggers = one(rendered["full"], "ScaledObject", "oneprotect-consumer")["spec"]["triggers"]

    watched = [(trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) for trigger in triggers]
    assert watched == [(consumer.stream, consumer.name) for consumer in ALL_CONSUMERS]


def test_selectors_match_their_pods(rendered: Rendered) -> None:
    """Monitors, budgets and Services select the pods of their component."""
    manifests = rendered["full"]
    labels = {
        w["metadata"]["labels"]["app.kubernetes.io/component"]: w["spec"]["template"]["metadata"]["labels"]
        for w in of_kind(manifests, "Deployment")
    }
    service = one(manifests, "Service", "oneprotect-api")

    assert service["spec"]["selector"].items() <= labels["api"].items()
    monitor = one(manifests, "ServiceMonitor", "oneprotect-api")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    pods = one(manifests, "PodMonitor", "oneprotect-consumer")["spec"]["selector"]["matchLabels"]
    assert pods.items() <= labels["consumer"].items()
    for component in ("consumer", "api"):
        budget = one(manifests, "PodDisruptionBudget", f"oneprotect-{component}")["spec"]
        assert budget["selector"]["matchLabels"].items() <= labels[component].items()


def test_the_admission_policy_covers_every_namespace_of_secrets(rendered: Rendered) -> None:
    """The policy denies in all namespaces of consumers' Secrets, and lists those Secrets."""
    (policy,) = of_kind(rendered["full"], "ValidatingAdmissionPolicy")
    (binding,) = of_kind(rendered["full"], "ValidatingAdmissionPolicyBinding")
    granted = [
        f"'{role['metadata']['namespace']}/{name}'"
        for role in of_kind(rendered["full"], "Role")
        for name in role["rules"][0]["resourceNames"]
    ]

    assert policy["spec"]["failurePolicy"] == "Fail"
    assert f"in [{', '.join(granted)}]" in policy["spec"]["matchConditions"][0]["expression"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    (namespaces,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert namespaces["values"] == ["webhooks", "webhooks-eu"]


def test_the_chart_has_the_programs_version() -> None:
    """The default image is the image of this version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert chart["appVersion"] == chart["version"] == project["version"]


def test_notes_name_commands_that_exist(helm_4: Path) -> None:
    """The notes show next commands with the release's names, and every command exists."""
    # With Helm 3 a dry run asks a cluster for its version.
    from oneprotect.cli.app import app

    command = f"{helm_4} install my {CHART} --dry-run=client --namespace ns --values {CHART}/ci/minimal.yaml"
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)

    notes = done.stdout.partition("NOTES:")[2]
    known = {(c.name or c.callback.__name__) for c in app.registered_commands if c.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"oneprotect ([a-z]+)", notes)) <= known
    assert "deploy/my-oneprotect-consumer -- oneprotect doctor" in notes
    assert "k8s://webhooks/acme-signing/signing" in notes
