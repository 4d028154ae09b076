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
[ci/full.yaml](ci/full.yaml). [Provide Secrets](../../../docs/how-to/provide-secrets.md) describes the tenants' Secrets.

What it makes: consumers (they deliver; they alone may get the Secrets that are named, and nothing else of the API
server), the API, a Job that creates streams before consumers start, network policies that deny all but what each
needs, and disruption budgets; when asked, autoscaling, monitoring, an Ingress or HTTPRoute, ExternalSecrets, and an
admission policy. Every pod meets the pod security standard "restricted". There is no
ClusterRole.

## Step by step

1. **Namespaces.** One for the release, one for the tenants' Secrets and nothing else.

   ```
   kubectl create namespace oneprotect
   kubectl label namespace oneprotect pod-security.kubernetes.io/enforce=restricted
   kubectl create namespace webhooks
   ```

2. **NATS.** A key for each user: the servers get the public ones, the roles their seeds. `deploy/nats/helm-values.yaml`
   says in its first lines which certificates it needs.

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

3. **Secrets.** Let something fill them: [Provide Secrets](../../../docs/how-to/provide-secrets.md). Their names go into
   `secrets.resourceNames`.

4. **Values.** Begin with [ci/minimal.yaml](ci/minimal.yaml). The API server's addresses are what this prints:

   ```
   kubectl get endpointslices --namespace default --selector kubernetes.io/service-name=kubernetes
   ```

5. **Install**, and ask. What is wrong is said with the way to mend it.

   ```
   helm install oneprotect deploy/helm/oneprotect --namespace oneprotect --values values.yaml
   kubectl exec --namespace oneprotect deploy/oneprotect-consumer -- oneprotect doctor
   ```

An upgrade is `helm upgrade`: the Job brings streams up to date first, which older consumers do not mind; then pods are
replaced one after another, each finishing what it has begun. `helm uninstall` leaves streams alone, and Secrets but for
those that the chart's own ExternalSecrets made.

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
