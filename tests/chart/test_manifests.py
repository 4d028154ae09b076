"""The check itself: what is wrong with a manifest is found, and said."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.manifests import main, parse, problems

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "labels": {"a": "b"}}, "data": {}}
STREAM = {
    "apiVersion": "jetstream.nats.io/v1beta2",
    "kind": "Stream",
    "metadata": {"name": "work"},
    "spec": {"name": "WORK", "subjects": ["a"], "retention": "limits", "storage": "file", "replicas": 1},
}


def changed(manifest: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A manifest with some fields replaced, or with others in its `spec`."""
    spec = fields.pop("spec", {})
    return {**manifest, **fields, **({"spec": {**manifest["spec"], **spec}} if "spec" in manifest else {})}


def test_what_is_right_passes() -> None:
    """A core object and one of another project."""
    assert list(problems([CONFIG_MAP, STREAM])) == []


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (changed(CONFIG_MAP, datta={}), "ConfigMap/one"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": True}}), "metadata.labels.a"),
        (changed(STREAM, metadata={"name": "one", "labels": {"a": True}}), "metadata.labels.a"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": "b c"}}), "metadata.labels.a: must be"),
        (changed(CONFIG_MAP, metadata={"name": "one", "labels": {"a": "b" * 64}}), "metadata.labels.a: must be"),
        (changed(CONFIG_MAP, metadata={"name": "One"}), "metadata.name: must be"),
        (changed(STREAM, spec={"discard": "nope"}), "spec.discard"),
        (changed(STREAM, spec={"subject": "a"}), "'subject' was unexpected"),
        (changed(STREAM, kind="Streem"), "jetstream.nats.io/v1beta2/Streem is not known"),
        (changed(CONFIG_MAP, kind="ConfigMapp"), "v1/ConfigMapp is not known"),
    ],
)
def test_what_is_wrong_is_said(manifest: dict[str, Any], said: str) -> None:
    """An unknown field, a label that is no string, a bad word, and a kind without a schema: each is a problem."""
    (found,) = problems([manifest])

    assert said in found


def test_a_field_that_an_older_kubernetes_lacks_is_a_problem() -> None:
    """Each version is asked, not the newest alone."""
    (found,) = problems([CONFIG_MAP | {"kind": "MutatingAdmissionPolicy"}], ["1.25"])

    assert "not known" in found


def test_a_key_that_occurs_twice_is_an_error() -> None:
    """YAML takes the last one silently; here it is refused."""
    with pytest.raises(yaml.YAMLError, match="b: occurs twice"):
        parse("a: {b: 1, c: 2, b: 3}")


def test_nothing_to_check_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check of nothing fails, so that a chart that renders nothing does not pass."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("---\n")

    assert main([str(empty)]) == 1
    assert "0 manifests" in capsys.readouterr().out
