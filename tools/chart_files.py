"""The files of the chart that are made from the program, so that the two can't drift apart.

`python -m tools.chart_files` writes them; a test fails when one is stale.
"""

import json
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import yaml

from consumers.egress.blocked_ranges import IPV4_DENIED, IPV6_ALLOWED, IPV6_DENIED
from oneprotect.settings.variables import VARIABLES
from tools.get_helm import ROOT
from tools.values_reference import reference

CHART: Final = ROOT / "deploy" / "helm" / "oneprotect"

SET_BY_THE_CHART: Final = frozenset(
    f"ONEPROTECT_{name}"
    for name in (
        "API_HOST",
        "API_PORT",
        "DRAIN_TIMEOUT_S",
        "EGRESS_ALLOW_CIDRS",
        "EGRESS_ALLOW_HTTP",
        "EGRESS_CA_FILE",
        "EGRESS_PORTS",
        "EGRESS_PROXY",
        "LOCAL_SECRETS_DIR",
        "MAX_IN_FLIGHT",
        "NATS_CA_FILE",
        "NATS_CREDS_FILE",
        "NATS_INBOX_PREFIX",
        "NATS_NKEY_FILE",
        "NATS_REPLICAS",
        "NATS_URL",
        "OIDC_CA_FILE",
        "OPS_HOST",
        "OPS_PORT",
        "SECRET_CACHE_TTL_S",
        "SECRET_MAX_STALE_S",
        "SECRET_NAMESPACE",
        "SECRET_NAMESPACES_ALLOWED",
        "SECRET_PROVIDER",
        "STATE_DIR",
        "WORK_PER_DESTINATION",
    )
)
"""Settings with a value of their own in the chart, or with none to choose; all others go under `settings`."""

_HEAD: Final = "# Generated from {source} by `make generate`; a test fails when it is stale.\n"


def files() -> dict[str, str]:
    """Every generated file, by its path in the chart."""
    return {
        "files/egress-ranges.yaml": egress_ranges(),
        "values.schema.json": values_schema(),
        "README.md": reference((CHART / "values.yaml").read_text()),
    }


def egress_ranges() -> str:
    """What the egress guard allows, as the blocks of a network policy: one range a family, less its holes."""

    def block(allowed: IPv4Network | IPv6Network, denied: list[str]) -> dict[str, Any]:
        return {"cidr": str(allowed), "except": denied}

    ranges = {
        "ipv4": block(IPv4Network("0.0.0.0/0"), [str(range_.network) for range_ in IPV4_DENIED]),
        "ipv6": block(IPV6_ALLOWED.network, [str(range_.network) for range_ in IPV6_DENIED]),
    }
    return _HEAD.format(source="consumers/egress/blocked_ranges.py") + _as_yaml(ranges)


def values_schema() -> str:
    """The schema of the values as it stands, with the settings that there are now."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    names = sorted({variable.name for variable in VARIABLES} - SET_BY_THE_CHART)
    schema["properties"]["settings"]["properties"] = {name: {"type": "string"} for name in names}
    return json.dumps(schema, indent=2) + "\n"


def write() -> None:
    """Bring every generated file up to date."""
    for path, text in files().items():
        (CHART / path).write_text(text)


def _as_yaml(document: object) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, width=1000)
    return text


if __name__ == "__main__":
    write()
