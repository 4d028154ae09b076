"""Kubernetes manifests, read strictly and checked without a cluster.

Core kinds are checked against Kubernetes's own schemas (package kubernetes-validate, strict: an unknown field is an
error). Kinds of other projects are checked against small schemas of our own, `tools/crds/*.yaml`, which know the
fields that we use. A kind that is in neither is a problem, and so is a key that occurs twice, as YAML takes the last
one silently.

`python -m tools.manifests FILE...` prints the problems of files, or of stdin for `-`; it exits with 1 if there are any.
"""

import importlib
import re
import sys
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import jsonschema
import yaml

KUBERNETES_VERSIONS: Final = ("1.30", "1.36")
"""The oldest that the chart allows, and a new one."""

Manifest = dict[str, Any]

_library: Any = importlib.import_module("kubernetes_validate")  # has no types
_CRDS: Final = Path(__file__).parent / "crds"
_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_METADATA: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"},
        "namespace": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


class _Loader(yaml.SafeLoader):
    """YAML in which a key may occur once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)}: occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[Manifest]:
    """The documents of a YAML stream, empty ones left out. Raises `yaml.YAMLError`, for a key that occurs twice too."""
    documents = cast("Iterable[object]", yaml.load_all(text, Loader=_Loader))
    return [cast("Manifest", document) for document in documents if document is not None]


def identity(manifest: Manifest) -> str:
    """Kind, namespace and name, for messages."""
    metadata = manifest.get("metadata", {})
    return "/".join(
        str(part) for part in (manifest.get("kind"), metadata.get("namespace"), metadata.get("name")) if part
    )


def problems(manifests: Iterable[Manifest], versions: Iterable[str] = KUBERNETES_VERSIONS) -> Iterator[str]:
    """What is wrong with each manifest, with the field's path; nothing for those that are right."""
    versions = tuple(versions)
    for manifest in manifests:
        yield from _metadata_problems(manifest)
        kind = f"{manifest.get('apiVersion')}/{manifest.get('kind')}"
        try:
            if kind in _schemas():
                jsonschema.validate(manifest, _schemas()[kind], cls=jsonschema.Draft202012Validator)
            else:
                for version in versions:
                    _library.validate(manifest, version, strict=True)
        except jsonschema.ValidationError as error:  # kubernetes-validate's own one is a child of it
            yield f"{identity(manifest)}: {error.json_path.removeprefix('$.')}: {error.message}"
        except _library.SchemaNotFoundError:
            yield f"{identity(manifest)}: {kind} is not known; add its schema to tools/crds"


def _metadata_problems(manifest: Manifest) -> Iterator[str]:
    """What the API server asks of names and labels, and no schema says."""
    metadata = manifest.get("metadata", {})
    if not _NAME.fullmatch(str(metadata.get("name", ""))):
        yield f"{identity(manifest)}: metadata.name: must be a DNS name of at most 253 characters"
    for key, value in metadata.get("labels", {}).items():
        if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(str(value))):
            yield f"{identity(manifest)}: metadata.labels.{key}: must be 63 characters at most, of letters, digits, -_."


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    """Our own schemas of whole manifests, by `apiVersion/Kind`. A file holds schemas of `spec` by that name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(_CRDS.glob("*.yaml")):
        for kind, spec in yaml.safe_load(path.read_text())["kinds"].items():
            jsonschema.Draft202012Validator.check_schema(spec)
            found[kind] = {
                "type": "object",
                "additionalProperties": False,
                "required": ["apiVersion", "kind", "metadata", "spec"],
                "properties": {"apiVersion": True, "kind": True, "metadata": _METADATA, "spec": spec},
            }
    return found


def main(paths: list[str]) -> int:
    """Print the problems of each file, and how many manifests were looked at."""
    count = failed = 0
    for path in paths:
        manifests = parse(sys.stdin.read() if path == "-" else Path(path).read_text())
        count += len(manifests)
        for problem in problems(manifests):
            failed += 1
            sys.stderr.write(f"{path}: {problem}\n")
    sys.stdout.write(f"{count} manifests, {failed} with problems, for Kubernetes {' and '.join(KUBERNETES_VERSIONS)}\n")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
