"""Checks of manifests: `tools.manifests` finds and names each problem."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.manifests import main, parse, problems

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "labels": {"a": "b"}}, "data": {}}
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "api"},
    "spec": {"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]},
}


def changed(manifest: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the manifest with some fields, or fields of its `spec`, replaced."""
    spec = fields.pop("spec", {})
    return {**manifest, **fields, **({"spec": {**manifest["spec"], **spec}} if "spec" in manifest else {})}


def test_valid_manifests_pass() -> None:
    """A core object and an object of another project have no problem."""
    assert list(problems([CONFIG_MAP, ROUTE])) == []


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (changed(CONFIG_MAP, datta={}), "ConfigMap/one"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": True}}), "metadata.labels.a"),
        (changed(ROUTE, metadata={"name": "one", "labels": {"a": True}}), "metadata.labels.a"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": "b c"}}), "metadata.labels.a: must be"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": "b" * 64}}), "metadata.labels.a: must be"),
        (changed(CONFIG_MAP, metadata={"name": "One"}), "metadata.name: must be"),
        (changed(ROUTE, spec={"hostnames": ["a b"]}), "spec.hostnames"),
        (changed(ROUTE, spec={"hostname": "a"}), "'hostname' was unexpected"),
        (changed(ROUTE, kind="HTTPRoot"), "gateway.networking.k8s.io/v1/HTTPRoot is not known"),
        (changed(CONFIG_MAP, kind="ConfigMapp"), "v1/ConfigMapp is not known"),
    ],
)
def test_an_invalid_manifest_is_reported(manifest: dict[str, Any], expected: str) -> None:
    """Unknown fields, labels that are no strings, bad values and unknown kinds are problems."""
    (found,) = problems([manifest])

    assert expected in found


def test_a_field_that_an_older_kubernetes_lacks_is_a_problem() -> None:
    """Manifests are checked against each Kubernetes version, not only the newest."""
    (found,) = problems([CONFIG_MAP | {"kind": "MutatingAdmissionPolicy"}], ["1.25"])

    assert "not known" in found


def test_a_key_that_occurs_twice_is_an_error() -> None:
    """A repeated key is refused, although YAML allows it."""
    with pytest.raises(yaml.YAMLError, match="b: occurs twice"):
        parse("a: {b: 1, c: 2, b: 3}")


def test_an_empty_file_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chart that renders nothing does not pass."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("---\n")

    assert main([str(empty)]) == 1
    assert "0 manifests" in capsys.readouterr().out
