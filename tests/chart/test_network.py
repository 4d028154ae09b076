"""Network policies: deny by default, allow what each role needs, and match the egress guard."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from consumers.egress.blocked_ranges import IPV4_DENIED, IPV6_ALLOWED, IPV6_DENIED
from consumers.egress.policy import EgressPolicy
from tests.chart.conftest import Rendered
from tests.chart.searching import environment, of_kind, one
from tools.chart import ChartError, render
from tools.manifests import Manifest

WITH_POLICIES = pytest.mark.parametrize("name", ["minimal", "full", "gateway"])


def rules(manifests: list[Manifest], role: str) -> list[dict[str, Any]]:
    """Return the destinations that a role's pods may connect to."""
    (policy,) = [m for m in of_kind(manifests, "NetworkPolicy") if m["metadata"]["name"].endswith(f"-{role}")]
    found: list[dict[str, Any]] = policy["spec"]["egress"]
    return found


def to_receivers(manifests: list[Manifest]) -> dict[str, Any]:
    """The consumers' rule for receivers: the one with exceptions in its ranges."""
    (rule,) = [r for r in rules(manifests, "consumer") if any("except" in p.get("ipBlock", {}) for p in r["to"])]
    return rule


@WITH_POLICIES
def test_everything_is_denied_first(rendered: Rendered, name: str) -> None:
    """One policy selects every pod of the release and allows nothing, in or out."""
    (policy,) = [m for m in of_kind(rendered[name], "NetworkPolicy") if m["metadata"]["name"].endswith("default-deny")]
    selector = policy["spec"]["podSelector"]["matchLabels"]

    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not policy["spec"].keys() & {"ingress", "egress"}
    for workload in of_kind(rendered[name], "Deployment", "Job"):
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_consumers_reach_only_the_proxy(rendered: Rendered) -> None:
    """The proxy's pods, at the port of the setting, replace the internet."""
    allowed = rules(rendered["gateway"], "consumer")

    to_proxy = [rule for rule in allowed if rule["ports"] == [{"protocol": "TCP", "port": 4750}]]
    assert [rule["to"] for rule in to_proxy] == [
        [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "egress"}},
                "podSelector": {"matchLabels": {"app": "smokescreen"}},
            }
        ]
    ]
    assert not any("except" in peer.get("ipBlock", {}) for rule in allowed for peer in rule["to"])
    assert environment(one_consumer(rendered["gateway"]))["ONEPROTECT_EGRESS_PROXY"].endswith(":4750")


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_ranges_equal_those_of_the_egress_guard(rendered: Rendered, name: str) -> None:
    """Consumers may reach the ranges of the egress guard's tables, in both families, and the exceptions."""
    blocks = [peer["ipBlock"] for peer in to_receivers(rendered[name])["to"]]
    exceptions = environment(one_consumer(rendered[name])).get("ONEPROTECT_EGRESS_ALLOW_CIDRS", "")

    assert blocks[0] == {"cidr": "0.0.0.0/0", "except": [str(range_.network) for range_ in IPV4_DENIED]}
    assert blocks[1] == {"cidr": str(IPV6_ALLOWED.network), "except": [str(range_.network) for range_ in IPV6_DENIED]}
    assert ",".join(block["cidr"] for block in blocks[2:]) == exceptions
    assert name != "full" or exceptions == "10.20.0.0/16,fd12:3456:789a::/48"


ADDRESSES = (
    "1.1.1.1 8.8.8.8 10.0.0.1 10.20.30.40 100.100.100.200 127.0.0.1 168.63.129.16 169.254.169.254 224.0.0.1 "
    "255.255.255.255 2606:4700::1111 2001::1 2002:7f00:1:: 3fff::1 fd00:ec2::254 fd12:3456:789a::7 fe80::1 ::1 ff02::1"
)


@pytest.mark.parametrize("address", ADDRESSES.split())
def test_policy_and_guard_judge_alike(rendered: Rendered, address: str) -> None:
    """An address passes the network policy exactly if it passes the program's guard."""
    blocks = [peer["ipBlock"] for peer in to_receivers(rendered["full"])["to"]]
    wanted = ip_address(address)
    passes = any(
        wanted in ip_network(block["cidr"]) and not any(wanted in ip_network(hole) for hole in block.get("except", []))
        for block in blocks
    )

    guard = EgressPolicy(allow_cidrs=("10.20.0.0/16", "fd12:3456:789a::/48"))
    assert passes == guard_allows(guard, address)


def guard_allows(guard: EgressPolicy, address: str) -> bool:
    """Whether a URL with that address may be called."""
    try:
        guard.check_url(f"https://[{address}]/" if ":" in address else f"https://{address}/")
    except ValueError:
        return False
    return True


def test_ports_are_the_settings(rendered: Rendered) -> None:
    """Ports and ranges of ports are those that URLs may name."""
    ports = to_receivers(rendered["full"])["ports"]

    assert ports == [
        {"protocol": "TCP", "port": 443},
        {"protocol": "TCP", "port": 8443},
        {"protocol": "TCP", "port": 9000, "endPort": 9100},
    ]
    written = [f"{port['port']}-{port['endPort']}" if "endPort" in port else str(port["port"]) for port in ports]
    assert environment(one_consumer(rendered["full"]))["ONEPROTECT_EGRESS_PORTS"] == ",".join(written)


@WITH_POLICIES
def test_only_consumers_reach_receivers_and_the_api_server(rendered: Rendered, name: str) -> None:
    """The API and `apply` reach names and NATS, the API the issuer of tokens, and no other address."""
    roles = ["api", "apply"] if name != "gateway" else ["api"]
    told = {"192.0.2.10/32", "192.0.2.11/32", "169.254.20.10/32", "203.0.113.7/32"}
    for role in roles:
        blocks = {p["ipBlock"]["cidr"] for rule in rules(rendered[name], role) for p in rule["to"] if "ipBlock" in p}

        assert blocks <= told
        assert role == "api" or "203.0.113.7/32" not in blocks

    api_server = [r for r in rules(rendered[name], "consumer") if {"ipBlock": {"cidr": "10.0.0.1/32"}} in r["to"]]
    assert len(api_server) == 1


def test_nats_is_reached_at_the_port_of_its_url(binary: Path) -> None:
    """The policy's port follows the URL, 4222 without one."""
    for url, port in (("nats://nats:4333", 4333), ("tls://nats.nats.svc", 4222), ("wss://[fd00::1]:443", 443)):
        manifests = render(binary, "minimal", {"nats": {"url": url}})

        allowed = rules(manifests, "apply")[1]
        assert allowed["ports"] == [{"protocol": "TCP", "port": port}]


def test_only_those_who_are_named_come_in(rendered: Rendered) -> None:
    """Metrics are for the namespace that is named, the API for the controller that is named."""
    consumer = one(rendered["full"], "NetworkPolicy", "oneprotect-consumer")["spec"]["ingress"]
    api = one(rendered["full"], "NetworkPolicy", "oneprotect-api")["spec"]["ingress"]
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }

    assert consumer == [{"from": [prometheus], "ports": [{"protocol": "TCP", "port": 9090}]}]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in api[0]["from"]] == [
        {"kubernetes.io/metadata.name": "ingress"},
        {"kubernetes.io/metadata.name": "monitoring"},
    ]
    assert one(rendered["minimal"], "NetworkPolicy", "oneprotect-apply")["spec"].get("ingress") is None


def test_policies_need_to_know_the_api_server(binary: Path) -> None:
    """Without its addresses consumers could read no Secret, so nothing is rendered; without policies it may be."""
    with pytest.raises(ChartError, match=r"networkPolicy\.apiServer\.cidrs is empty: .*kubectl get endpointslices"):
        render(binary, "minimal", {"networkPolicy": {"apiServer": {"cidrs": []}}})

    manifests = render(binary, "minimal", {"networkPolicy": {"enabled": False, "apiServer": {"cidrs": []}}})
    assert of_kind(manifests, "NetworkPolicy") == []


def one_consumer(manifests: list[Manifest]) -> Manifest:
    """The consumers' Deployment."""
    (found,) = [m for m in of_kind(manifests, "Deployment") if m["metadata"]["name"].endswith("-consumer")]
    return found
