"""The chart's README, made from the comments of its values: what stands above a value is what it says."""

import json
from collections.abc import Iterator
from typing import Any, Final, cast

import yaml

_HEAD: Final = """\
# Helm chart of OneProtect Delivery

```
helm install oneprotect deploy/helm/oneprotect --namespace oneprotect --create-namespace --values values.yaml
```

It needs Kubernetes 1.30, Helm 3 or 4, a NATS server with JetStream (2.12 or newer), an image, and the Secrets that it
is told of. The least that it has to be told is in [ci/minimal.yaml](ci/minimal.yaml), everything together in
[ci/full.yaml](ci/full.yaml); where tenants' Secrets come from is in [docs/secrets.md](../../../docs/secrets.md).

What it makes: consumers (they deliver; they alone may get the Secrets that are named, and nothing else of the API
server), the API, a Job that creates streams before consumers start, network policies that deny all but what each
needs, and disruption budgets; when asked, autoscaling, monitoring, an Ingress or HTTPRoute, objects for NACK or
External Secrets, and an admission policy. Every pod meets the pod security standard "restricted". There is no
ClusterRole.

This page is generated from `values.yaml`: `make generate`.

## Values

| value | default | what it is |
|---|---|---|
"""


def reference(values: str) -> str:
    """The page, in Markdown, from the text of `values.yaml`. Raises `ValueError` for a value without a comment."""
    root = cast("yaml.MappingNode", yaml.compose(values))
    rows = list(_rows(root, yaml.safe_load(values), "", values.splitlines()))
    silent = [name for name, _, words in rows if not words]
    if silent:
        raise ValueError(f"no comment above: {', '.join(silent)}")
    return _HEAD + "".join(f"| `{name}` | {default} | {words} |\n" for name, default, words in rows)


def _rows(
    mapping: yaml.MappingNode, defaults: dict[str, Any], prefix: str, lines: list[str]
) -> Iterator[tuple[str, str, str]]:
    """Path, default and comment of each value. A mapping with a comment of its own, and without any inside, is one."""
    for key, node in mapping.value:
        if _is_commented(node, lines):
            yield from _rows(node, defaults[key.value], f"{prefix}{key.value}.", lines)
        else:
            yield prefix + key.value, _written(defaults[key.value]), _comment_above(lines, key.start_mark.line)


def _is_commented(node: yaml.Node, lines: list[str]) -> bool:
    """Whether something is said of what is inside."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return False
    return any(_comment_above(lines, key.start_mark.line) or _is_commented(value, lines) for key, value in node.value)


def _comment_above(lines: list[str], line: int) -> str:
    words: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(words).replace("|", "\\|")


def _written(default: object) -> str:
    return "" if default in ("", [], {}) else f"`{json.dumps(default)}`"
