"""RBAC of the API server double: request attributes, and the Roles that allow them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aiohttp import web

Place = tuple[str, str, str]
"""Resource, namespace, name."""
Objects = Mapping[Place, dict[str, Any]]

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}


class Attributes(NamedTuple):
    """Attributes of a request."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    subresource: str

    @classmethod
    def of(cls, request: web.Request) -> "Attributes | None":
        """Return the attributes of a request for a resource, or None for any other path."""
        match request.path.strip("/").split("/"):
            case ["api", "v1", *rest]:
                group = ""
            case ["apis", group, _, *rest]:
                pass
            case _:
                return None
        match rest:
            case ["namespaces", namespace, resource, *parts]:
                pass
            case ["namespaces", namespace]:
                resource, parts = "namespaces", [namespace]
            case [resource, *parts]:
                namespace = ""
            case _:
                return None
        name, subresource = [*parts, "", ""][:2]
        verb = _VERBS.get(request.method, request.method.lower())
        if verb == "get" and not name:
            verb, name = _collection_verb(request), _selected_name(request)
        return cls(verb, group, resource, namespace, name, subresource)

    @property
    def qualified_resource(self) -> str:
        """The resource with its subresource, as rules and messages name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def reason(objects: Objects, user: str, asked: Attributes) -> str | None:
    """Return why a user is allowed, in the server's words; None if nothing allows it."""
    for binding in _bindings(objects, asked.namespace):
        for subject in binding.get("subjects", []):
            role = objects.get(("roles", asked.namespace, binding["roleRef"]["name"]))
            if role is not None and _user(subject) == user and any(_covers(rule, asked) for rule in role["rules"]):
                return (
                    f'RBAC: allowed by RoleBinding "{binding["metadata"]["name"]}/{asked.namespace}"'
                    f' of Role "{role["metadata"]["name"]}" to {_shown(subject)}'
                )
    return None


def subject_of(user: str) -> dict[str, str]:
    """A user as RoleBindings name it."""
    match user.split(":"):
        case ["system", "serviceaccount", namespace, name]:
            return {"kind": "ServiceAccount", "namespace": namespace, "name": name}
        case _:
            return {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}


def _collection_verb(request: web.Request) -> str:
    return "watch" if request.query.get("watch", "").lower() in ("true", "1") else "list"


def _selected_name(request: web.Request) -> str:
    """The name that a field selector requires, which then counts as the request's."""
    terms = [term.split("=") for term in request.query.get("fieldSelector", "").replace("==", "=").split(",")]
    return next((value for field, *values in terms if field == "metadata.name" for value in values), "")


def _bindings(objects: Objects, namespace: str) -> Iterator[dict[str, Any]]:
    for (resource, place, _), document in objects.items():
        if (resource, place) == ("rolebindings", namespace):
            yield document


def _user(subject: Mapping[str, str]) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return subject["name"]


def _shown(subject: Mapping[str, str]) -> str:
    name = subject["name"] + (f"/{subject['namespace']}" if subject["kind"] == "ServiceAccount" else "")
    return f'{subject["kind"]} "{name}"'


def _covers(rule: Mapping[str, list[str]], asked: Attributes) -> bool:
    """No names in a rule means every name, which is why it must not be left out."""
    names = rule.get("resourceNames") or []
    return (
        _has(rule["verbs"], asked.verb)
        and _has(rule["apiGroups"], asked.group)
        and _has(rule["resources"], asked.qualified_resource)
        and (not names or asked.name in names)
    )


def _has(allowed: list[str], one: str) -> bool:
    return "*" in allowed or one in allowed
