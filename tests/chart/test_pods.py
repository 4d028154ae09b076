"""Pods: security standard "restricted", settings and termination."""

from collections.abc import Iterator
from typing import Any

import pytest

from messaging.admin.permissions import ROLES, inbox_prefix
from oneprotect.settings.settings import Settings
from oneprotect.settings.variables import VARIABLES
from tests.chart.conftest import Rendered
from tests.chart.searching import WORKLOADS, environment, of_kind, pod_of
from tools.chart import VALUES
from tools.manifests import Manifest

EVERY = pytest.mark.parametrize("name", VALUES)

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """Violations of the Pod Security Standard "restricted", and of a read-only root."""
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod.get("volumes", []):
        if not (volume.keys() - {"name"}) <= RESTRICTED_VOLUMES:
            yield f"volume {volume['name']}"
    for container in [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]:
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        rules = {
            "privileged": not context.get("privileged"),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser") not in (None, 0),
            "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        yield from (rule for rule, kept in rules.items() if not kept)


@EVERY
def test_every_pod_is_restricted(rendered: Rendered, name: str) -> None:
    """No pod of any rendering would be refused in a namespace that enforces "restricted"."""
    workloads = of_kind(rendered[name], *WORKLOADS)

    assert workloads
    assert [found for workload in workloads for found in violations(pod_of(workload))] == []


def test_the_check_detects_missing_fields() -> None:
    """A pod without a security context violates every rule of the check."""
    bare = {
        "hostNetwork": True,
        "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
        "containers": [
            {"name": "c", "ports": [{"containerPort": 1, "hostPort": 1}], "securityContext": {"privileged": True}}
        ],
    }

    assert set(violations(bare)) == {
        "hostNetwork", "volume node", "privileged", "allowPrivilegeEscalation", "capabilities", "runAsNonRoot",
        "runAsUser", "seccompProfile", "readOnlyRootFilesystem", "hostPort",
    }  # fmt: skip


@EVERY
def test_every_pod_is_bounded_and_has_no_service_links(rendered: Rendered, name: str) -> None:
    """Variables of service links would be unknown settings; memory has a limit; /tmp can be written."""
    for workload in of_kind(rendered[name], *WORKLOADS):
        pod = pod_of(workload)
        (container,) = pod["containers"]

        assert pod["enableServiceLinks"] is False
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        if name != "plain":
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def roles(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Workloads by component."""
    return {w["metadata"]["labels"]["app.kubernetes.io/component"]: w for w in of_kind(manifests, *WORKLOADS)}


@EVERY
def test_the_program_accepts_the_settings_of_pods(rendered: Rendered, name: str) -> None:
    """Each pod's variables load without unknown names, bad values or missing settings."""
    for role, workload in roles(rendered[name]).items():
        settings = Settings.load(environment(workload), resolves_secrets=role == "consumer")

        assert settings.secret.namespace
        assert settings.nats.url.endswith(("4222", "4223"))


def test_values_reach_the_settings(rendered: Rendered) -> None:
    """The program reads the given values in all roles that use them."""
    full = roles(rendered["full"])
    read = {role: Settings.load(environment(workload)) for role, workload in full.items()}

    consumer = read["consumer"]
    assert consumer.secret.provider == "kubernetes"
    assert (consumer.secret.cache_ttl_s, consumer.secret.max_stale_s) == (30, 120)
    assert consumer.secret.namespaces == {"webhooks", "webhooks-eu"}
    assert consumer.egress.ports == ((443, 443), (8443, 8443), (9000, 9100))
    assert consumer.egress.allow_cidrs == ("10.20.0.0/16", "fd12:3456:789a::/48")
    assert (consumer.delivery.max_in_flight, consumer.delivery.drain_timeout_s) == (512, 40)
    assert consumer.log.level == "warning"
    assert read["api"].egress.allow_cidrs == consumer.egress.allow_cidrs
    assert (read["api"].api.host, read["api"].api.port) == ("0.0.0.0", 8080)  # noqa: S104 - a pod's own address
    assert read["apply"].nats.work_per_destination == 1_000_000
    assert read["apply"].delivery.ack_wait_s == consumer.delivery.ack_wait_s == 60
    assert "ONEPROTECT_SECRET_PROVIDER" not in environment(full["api"])


def test_each_role_uses_its_own_nats_user(rendered: Rendered) -> None:
    """Each role uses the configured keys or credentials and its user's inbox."""
    for name, kind in (("full", "nkey_file"), ("gateway", "creds_file")):
        for role, workload in roles(rendered[name]).items():
            nats = Settings.load(environment(workload)).nats

            assert str(getattr(nats, kind)) == "/etc/oneprotect/nats/credentials"
            assert nats.inbox_prefix == inbox_prefix("operator" if role == "apply" else role)
    assert {role.name for role in ROLES} >= {"consumer", "api", "operator"}


@EVERY
def test_files_that_settings_name_are_mounted(rendered: Rendered, name: str) -> None:
    """Every path among the variables is a file that a volume puts there."""
    files = [variable.name for variable in VARIABLES if variable.name.endswith("_FILE")]
    for workload in of_kind(rendered[name], *WORKLOADS):
        (container,) = pod_of(workload)["containers"]
        volumes = {volume["name"]: volume for volume in pod_of(workload)["volumes"]}
        there: set[str] = set()
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            source: Manifest = volume.get("secret") or volume.get("configMap") or {}
            there.update(f"{mount['mountPath']}/{item['path']}" for item in source.get("items", []))

        assert {environment(workload)[file] for file in files if file in environment(workload)} <= there


@EVERY
def test_pods_have_the_time_to_end_well(rendered: Rendered, name: str) -> None:
    """Kubernetes waits longer than a consumer drains, and a consumer drains by itself: no preStop before SIGTERM."""
    consumer = roles(rendered[name])["consumer"]
    drain_timeout_s = float(environment(consumer)["ONEPROTECT_DRAIN_TIMEOUT_S"])

    assert pod_of(consumer)["terminationGracePeriodSeconds"] >= drain_timeout_s + 10
    assert "lifecycle" not in pod_of(consumer)["containers"][0]


@EVERY
def test_probes_use_the_ports_that_the_program_opens(rendered: Rendered, name: str) -> None:
    """Liveness and startup probes use /healthz and readiness uses /readyz, at the port of the settings."""
    port_of = {"consumer": "ONEPROTECT_OPS_PORT", "api": "ONEPROTECT_API_PORT"}
    for role, workload in roles(rendered[name]).items():
        if role == "apply":
            continue
        (container,) = pod_of(workload)["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}

        asked = {
            probe: (container[probe]["httpGet"]["path"], ports[container[probe]["httpGet"]["port"]])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }

        port = environment(workload)[port_of[role]]
        assert asked == {
            "startupProbe": ("/healthz", port),
            "livenessProbe": ("/healthz", port),
            "readinessProbe": ("/readyz", port),
        }


def test_pods_run_existing_commands(rendered: Rendered) -> None:
    """Every pod's arguments are a command of the command line."""
    from oneprotect.cli.app import app

    commands = {(command.name or command.callback.__name__) for command in app.registered_commands if command.callback}
    asked = {tuple(pod_of(w)["containers"][0]["args"]) for m in rendered.values() for w in of_kind(m, *WORKLOADS)}

    assert asked == {("consumer",), ("api",), ("apply",)}
    assert {command for (command,) in asked} <= commands
