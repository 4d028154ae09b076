"""README of the chart, generated from the comments in `values.yaml`."""

import json
from collections.abc import Iterator
from typing import Any, Final, cast

import yaml

_HEAD: Final = """\
# Helm chart of OneProtect Delivery

```
helm install oneprotect deploy/helm/oneprotect --namespace oneprotect --create-namespace --values values.yaml
```

Requirements:

- Kubernetes 1.30 or newer, and Helm 3 or 4.
- NATS 2.12 or newer with JetStream.
- An image of OneProtect Delivery.
- Secrets with the tenants' signing keys: see [Provide secrets](../../../docs/how-to/provide-secrets.md).

The chart installs:

- Consumers, which deliver. Only consumers may read Secrets, and only those that the values name.
- The API.
- A Job that creates the streams before the consumers start.
- Network policies that deny all traffic except what each role needs.
- Pod disruption budgets.

Optional: autoscaling, monitoring, an Ingress or HTTPRoute, ExternalSecrets, and an admission policy.

Every pod meets the pod security standard "restricted". The chart creates no ClusterRole.

## Install

1. Create a namespace for the release, and one for the tenants' Secrets:

   ```
   kubectl create namespace oneprotect
   kubectl label namespace oneprotect pod-security.kubernetes.io/enforce=restricted
   kubectl create namespace webhooks
   ```

2. Install NATS. Each user has a key: the servers get the public keys, and each role gets its seed.
   The first lines of `deploy/nats/helm-values.yaml` list the certificates that NATS needs.

   ```
   for user in api consumer operator sys; do oneprotect nats key --output $user.nk > $user.pub; done
   kubectl create secret generic oneprotect-nats-users --namespace nats --from-literal "api=$(cat api.pub)" \\
     --from-literal "consumer=$(cat consumer.pub)" --from-literal "operator=$(cat operator.pub)" \\
     --from-literal "sys=$(cat sys.pub)"
   helm upgrade --install nats nats/nats --namespace nats --values deploy/nats/helm-values.yaml
   kubectl create secret generic oneprotect-nats-api --namespace oneprotect --from-file api.nk
   kubectl create secret generic oneprotect-nats-consumer --namespace oneprotect --from-file consumer.nk
   kubectl create secret generic oneprotect-nats-apply --namespace oneprotect --from-file operator.nk
   kubectl create configmap nats-ca --namespace oneprotect --from-file ca.crt      # then nats.ca.name: nats-ca
   ```

3. Provide the tenants' Secrets, and list their names in `secrets.resourceNames`.

4. Write the values. Start from [ci/minimal.yaml](ci/minimal.yaml); [ci/full.yaml](ci/full.yaml) uses every feature.
   This command prints the addresses of the API server for `networkPolicy.apiServer.cidrs`:

   ```
   kubectl get endpointslices --namespace default --selector kubernetes.io/service-name=kubernetes
   ```

5. Install the release, and run `oneprotect doctor`, which prints each problem with its fix:

   ```
   helm install oneprotect deploy/helm/oneprotect --namespace oneprotect --values values.yaml
   kubectl exec --namespace oneprotect deploy/oneprotect-consumer -- oneprotect doctor
   ```

## Upgrade and uninstall

`helm upgrade` first updates the streams; consumers of the older version keep working. Pods are then replaced one by
one, and each finishes its deliveries in flight. `helm uninstall` deletes neither streams nor Secrets, except for
Secrets that the chart's ExternalSecrets created.

## Values

`make generate` writes this page from `values.yaml`. Durations are in seconds unless the default has a unit.
A value without a default is empty.

| value | default | description |
|---|---|---|
"""


def reference(values: str) -> str:
    """Return the README in Markdown.

    Args:
        values: text of `values.yaml`.

    Raises:
        ValueError: a value has no comment.
    """
    root = cast("yaml.MappingNode", yaml.compose(values))
    rows = list(_rows(root, yaml.safe_load(values), "", values.splitlines()))
    undocumented = [name for name, _, words in rows if not words]
    if undocumented:
        raise ValueError(f"no comment above: {', '.join(undocumented)}")
    return _HEAD + "".join(f"| `{name}` | {default} | {words} |\n" for name, default, words in rows)


def _rows(
    mapping: yaml.MappingNode, defaults: dict[str, Any], prefix: str, lines: list[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and comment of each value. A mapping without comments inside counts as one value."""
    for key, node in mapping.value:
        if _is_commented(node, lines):
            yield from _rows(node, defaults[key.value], f"{prefix}{key.value}.", lines)
        else:
            yield prefix + key.value, _format_default(defaults[key.value]), _comment_above(lines, key.start_mark.line)


def _is_commented(node: yaml.Node, lines: list[str]) -> bool:
    """Return true if a value inside the mapping has a comment."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return False
    return any(_comment_above(lines, key.start_mark.line) or _is_commented(value, lines) for key, value in node.value)


def _comment_above(lines: list[str], line: int) -> str:
    words: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(words).replace("|", "\\|")


def _format_default(default: object) -> str:
    return "" if default in ("", [], {}) else f"`{json.dumps(default)}`"
