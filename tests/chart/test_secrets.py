"""Secret sync: each way yields the signing Secret with the least permissions."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from oneprotect.settings.settings import Settings
from provider.local import LocalSecretProvider
from provider.secret_ref import SecretRef
from schemas.ids import Purpose
from tests.chart.conftest import Rendered
from tests.chart.searching import of_kind, one, pod_of
from tests.chart.test_pods import violations
from tests.support.signing import sign_with
from tools.chart_files import CHART
from tools.get_helm import ROOT
from tools.manifests import Manifest, parse, problems

FILES = sorted(path.name for path in (ROOT / "deploy" / "secrets").iterdir())
WAYS = [name for name in FILES if name.endswith(".yaml")]
DOCUMENT = (ROOT / "docs" / "how-to" / "provide-secrets.md").read_text()
CURRENT = "whsec_" + base64.b64encode(b"c" * 32).decode()
PREVIOUS = "whsec_" + base64.b64encode(b"p" * 32).decode()
SOON = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
STORED = {"current": CURRENT, "previous": PREVIOUS, "previous_expires_at": SOON}


def manifests_of(name: str) -> list[Manifest]:
    """The manifests of a file."""
    return parse((ROOT / "deploy" / "secrets" / name).read_text())


def filled(text: str, data: Mapping[str, str]) -> str:
    """The two forms of Go templates that the manifests use: `{{ .name }}` and `{{ get .Secrets "name" }}`."""
    return re.sub(r'\{\{ (?:\.(\w+)|get \.Secrets "(\w+)") \}\}', lambda found: data[found[1] or found[2]], text)


def synced(manifest: Manifest, stored: Mapping[str, str]) -> Manifest:
    """Return the Secret that the operator or driver creates from the `stored` values."""
    spec = manifest["spec"]
    match manifest["kind"]:
        case "ExternalSecret":
            data = {one["secretKey"]: _fetched(one["remoteRef"], stored) for one in spec["data"]}
            template = spec["target"]["template"]
            annotations = {k: filled(v, data) for k, v in template["metadata"].get("annotations", {}).items()}
            values = {key: filled(text, data) for key, text in template.get("data", {}).items()}
            if template["mergePolicy"] == "Merge":
                values = data | values
            name, labels, type_ = spec["target"]["name"], template["metadata"]["labels"], template["type"]
        case "VaultStaticSecret":
            target = spec["destination"]
            assert target["create"], "labels are written only into a Secret that the operator makes"
            assert target["transformation"]["excludeRaw"], "or the whole entry is in the Secret once more"
            assert target["transformation"]["excludes"] == [".*"]
            values = {k: filled(v["text"], stored) for k, v in target["transformation"]["templates"].items()}
            name, labels, annotations, type_ = (target[key] for key in ("name", "labels", "annotations", "type"))
        case "SecretProviderClass":
            (target,) = spec["secretObjects"]
            objects = {o["objectName"]: stored[o["secretKey"]] for o in yaml.safe_load(spec["parameters"]["objects"])}
            values = {item["key"]: objects[item["objectName"]] for item in target["data"]}
            name, labels, type_ = target["secretName"], target["labels"], target["type"]
            annotations = {
                "oneprotect.io/previous-expires-at": SOON
            }  # by `kubectl annotate`, as docs/how-to/provide-secrets.md says
        case kind:
            raise AssertionError(kind)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": manifest["metadata"]["namespace"],
            "labels": labels,
            "annotations": annotations,
            "uid": "6d1f3a52-0000-4000-8000-000000000000",
            "resourceVersion": "1",
        },
        "type": type_,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def _fetched(remote: Mapping[str, str], stored: Mapping[str, str]) -> str:
    """One value of the store: a property, or a version."""
    if "property" in remote:
        return stored[remote["property"]]
    return stored[{"AWSCURRENT": "current", "AWSPREVIOUS": "previous"}[remote.get("version", "AWSCURRENT")]]


async def signs_with(secret: Manifest, tenant: str, directory: Path) -> tuple[str, ...]:
    """The slots that a delivery of the tenant would be signed with."""
    namespace, name = secret["metadata"]["namespace"], secret["metadata"]["name"]
    (directory / namespace).mkdir(exist_ok=True)
    (directory / namespace / f"{name}.json").write_text(json.dumps(secret))
    provider = LocalSecretProvider(directory, namespaces_allowed=frozenset({namespace}))
    ref = SecretRef.parse(f"k8s://{namespace}/{name}/signing")
    resolved = await provider.resolve(ref, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING)
    return tuple(signature.slot for signature in sign_with(resolved, b"message", datetime.now(UTC)))


def sources(manifests: list[Manifest]) -> list[Manifest]:
    """Return the objects that create a Secret."""
    return of_kind(manifests, "ExternalSecret", "VaultStaticSecret", "SecretProviderClass")


@pytest.mark.parametrize("name", WAYS)
async def test_each_source_yields_a_signing_secret(name: str, tmp_path: Path) -> None:
    """Stored values become a Secret that the product accepts, with both keys during a rollover."""
    (source,) = sources(manifests_of(name))
    secret = synced(source, STORED)
    if name in ("eso-aws.yaml", "vault-operator.yaml"):  # their end is in the manifest, as a date to replace
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", secret["metadata"]["annotations"].popitem()[1])
        secret["metadata"]["annotations"] = {"oneprotect.io/previous-expires-at": SOON}

    assert await signs_with(secret, "acme", tmp_path) == ("current", "previous")
    assert secret["data"].keys() == {"signing", "signing.previous"}
    ended = secret | {"metadata": secret["metadata"] | {"annotations": {}}}
    assert await signs_with(ended, "acme", tmp_path) == ("current",)


async def test_external_secrets_of_the_chart_yield_a_signing_secret(rendered: Rendered, tmp_path: Path) -> None:
    """The chart supports versions, properties, and no rollover, each for its own tenant."""
    full = {m["metadata"]["name"]: m for m in of_kind(rendered["full"], "ExternalSecret")}

    by_properties = synced(full["globex.signing"], STORED)
    assert await signs_with(by_properties, "globex", tmp_path) == ("current", "previous")
    by_versions = synced(full["acme-signing"], STORED)
    assert by_versions["data"].keys() == {"signing", "signing.previous"}
    without = synced(full["42"], STORED)
    assert await signs_with(without, "42", tmp_path) == ("current",)
    assert without["data"].keys() == {"signing"}


@pytest.mark.parametrize("name", WAYS)
def test_manifests_are_valid(name: str) -> None:
    """Strictly, and every label and annotation is a string."""
    manifests = manifests_of(name)

    assert manifests
    assert list(problems(manifests)) == []


@pytest.mark.parametrize("name", WAYS)
def test_permissions_are_the_least(name: str) -> None:
    """All that is granted is to make tokens of one account; stores are of one namespace; certificates are checked."""
    manifests = manifests_of(name)

    for role in of_kind(manifests, "Role"):
        assert role["rules"] == [
            {
                "apiGroups": [""],
                "resources": ["serviceaccounts/token"],
                "resourceNames": ["tenant-secrets"],
                "verbs": ["create"],
            }
        ]
    assert len(of_kind(manifests, "Role")) == (1 if name.startswith("eso-") else 0)
    assert not of_kind(manifests, "ClusterRole", "ClusterRoleBinding", "ClusterSecretStore", "Secret")
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"webhooks"}
    assert one(manifests, "ServiceAccount", "tenant-secrets")["automountServiceAccountToken"] is False
    text = (ROOT / "deploy" / "secrets" / name).read_text()
    assert re.search(r"(?i)skip.?tls|insecure", text) is None


def test_the_holder_pod_is_restricted_and_mounts_the_class() -> None:
    """The pod that keeps a CSI Secret alive meets "restricted", mounts its class and has no token."""
    manifests = manifests_of("csi.yaml")
    pod = pod_of(one(manifests, "Deployment", "acme-orders-holder"))

    assert list(violations(pod)) == []
    (volume,) = pod["volumes"]
    assert (
        volume["csi"]["volumeAttributes"]["secretProviderClass"]
        == one(manifests, "SecretProviderClass", "acme-orders")["metadata"]["name"]
    )
    assert pod["automountServiceAccountToken"] is False


def test_the_page_names_every_manifest_and_no_other() -> None:
    """The page explains when to use each manifest, and names only existing ones."""
    named = set(re.findall(r"`((?:eso-|csi|vault-)[a-z-]*\.yaml)`", DOCUMENT))

    assert named == set(WAYS)
    assert WAYS == FILES


def test_documented_times_equal_manifests_and_settings() -> None:
    """Page, manifests, chart, program and rotation runbook have the same intervals, cache times and sums."""
    secret = Settings().secret
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    intervals = {
        source["spec"].get("refreshInterval") or source["spec"].get("refreshAfter")
        for name in WAYS
        for source in sources(manifests_of(name))
    }

    assert intervals == {"5m", None}  # None: the CSI driver's interval is one of its installation
    assert values["externalSecrets"]["refreshInterval"] == "5m"
    assert values["secrets"]["cacheTtlSeconds"] == secret.cache_ttl_s == 60
    assert values["secrets"]["maxStaleSeconds"] == secret.max_stale_s == 300
    assert "| External Secrets | `refreshInterval`, 5 min | 60 s | 6 min |" in DOCUMENT
    assert "| Vault Secrets Operator | `refreshAfter`, 5 min | 60 s | 6 min |" in DOCUMENT
    assert "rotationPollInterval=2m" in (ROOT / "deploy" / "secrets" / "csi.yaml").read_text()
    assert "`secrets.maxStaleSeconds`, 300 s" in DOCUMENT
    runbook = (ROOT / "docs" / "how-to" / "rotate-a-secret.md").read_text()
    assert "`refreshInterval` + 60 s" in runbook
    assert "| 300 s since the last read |" in runbook
