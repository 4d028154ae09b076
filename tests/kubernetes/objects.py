"""Objects of the API server double, and the operations on them."""

import base64
import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from tests.kubernetes.rbac import Attributes, Place, reason
from tests.kubernetes.statuses import answered, failure, not_found

Document = dict[str, Any]

_KINDS = {
    "namespaces": ("Namespace", "v1"),
    "secrets": ("Secret", "v1"),
    "serviceaccounts": ("ServiceAccount", "v1"),
    "roles": ("Role", "rbac.authorization.k8s.io/v1"),
    "rolebindings": ("RoleBinding", "rbac.authorization.k8s.io/v1"),
}


class Objects(dict[Place, Document]):
    """Every object by resource, namespace and name. The namespace of a namespace is its own name, as in RBAC."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, str] = {}
        """Whose tokens they are."""
        self._revision = 257

    def perform(self, asked: Attributes, user: str, body: Document) -> web.Response:
        """What is asked for, by one who may."""
        if asked.resource == "selfsubjectaccessreviews":
            return self._review(user, body)
        if asked.subresource == "token":
            return self._token(asked, body)
        acts: dict[str, Callable[[Attributes, Document], web.Response]] = {
            "get": self._get,
            "list": self._list,
            "create": self._create,
            "update": self._update,
            "delete": self._delete,
        }
        if asked.resource not in _KINDS or asked.subresource or asked.verb not in acts:
            return failure(404, "NotFound", "the server could not find the requested resource", {})
        return acts[asked.verb](asked, body)

    def store(self, resource: str, document: Document) -> Document:
        """Keep an object, as it will be answered."""
        metadata, (kind, version) = document["metadata"], _KINDS[resource]
        self._revision += 1
        kept: Document = {
            "kind": kind,
            "apiVersion": version,
            "metadata": {
                "uid": str(uuid.uuid4()),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                **metadata,
                "resourceVersion": str(self._revision),
            },
            **{key: value for key, value in document.items() if key not in ("kind", "apiVersion", "metadata")},
        }
        if resource == "secrets":
            plain: dict[str, str] = kept.pop("stringData", {})
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
            kept["data"] = kept.get("data", {}) | encoded
            kept["type"] = kept.get("type", "Opaque")
        namespace = metadata["name"] if resource == "namespaces" else metadata["namespace"]
        self[resource, namespace, metadata["name"]] = kept
        return kept

    def _get(self, asked: Attributes, _: Document) -> web.Response:
        found = self.get((asked.resource, asked.namespace, asked.name))
        return answered(found) if found is not None else answered(not_found(asked.resource, asked.name), 404)

    def _list(self, asked: Attributes, _: Document) -> web.Response:
        kind, version = _KINDS[asked.resource]
        items = [
            {key: value for key, value in document.items() if key not in ("kind", "apiVersion")}
            for (resource, namespace, name), document in self.items()
            if resource == asked.resource and namespace == asked.namespace and asked.name in ("", name)
        ]
        metadata = {"resourceVersion": str(self._revision)}
        return answered({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items})

    def _create(self, asked: Attributes, body: Document) -> web.Response:
        name = body["metadata"]["name"]
        if asked.resource != "namespaces" and ("namespaces", asked.namespace, asked.namespace) not in self:
            return answered(not_found("namespaces", asked.namespace), 404)
        if (asked.resource, asked.namespace or name, name) in self:
            details = {"name": name, "kind": asked.resource}
            return failure(409, "AlreadyExists", f'{asked.resource} "{name}" already exists', details)
        return answered(self.store(asked.resource, self._placed(body, asked.namespace)), 201)

    def _update(self, asked: Attributes, body: Document) -> web.Response:
        before = self.get((asked.resource, asked.namespace, asked.name))
        if before is None:
            return answered(not_found(asked.resource, asked.name), 404)
        body["metadata"] = body["metadata"] | {"uid": before["metadata"]["uid"]}
        return answered(self.store(asked.resource, self._placed(body, asked.namespace)))

    def _delete(self, asked: Attributes, _: Document) -> web.Response:
        gone = self.pop((asked.resource, asked.namespace, asked.name), None)
        if gone is None:
            return answered(not_found(asked.resource, asked.name), 404)
        if asked.resource == "namespaces":
            for place in [place for place in self if place[1] == asked.name]:
                del self[place]
        details = {"name": asked.name, "kind": asked.resource, "uid": gone["metadata"]["uid"]}
        return answered({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    @staticmethod
    def _placed(body: Document, namespace: str) -> Document:
        return {**body, "metadata": body["metadata"] | ({"namespace": namespace} if namespace else {})}

    def _token(self, asked: Attributes, body: Document) -> web.Response:
        token = secrets.token_urlsafe(24)
        self.tokens[token] = f"system:serviceaccount:{asked.namespace}:{asked.name}"
        expires_at = datetime.now(UTC) + timedelta(seconds=body["spec"]["expirationSeconds"])
        return answered(
            {
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"name": asked.name, "namespace": asked.namespace},
                "spec": body["spec"],
                "status": {"token": token, "expirationTimestamp": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
            201,
        )

    def _review(self, user: str, body: Document) -> web.Response:
        """Review the permissions of the user. Every known user may ask."""
        spec: dict[str, str] = body["spec"]["resourceAttributes"]
        asked = Attributes(
            *(spec.get(field, "") for field in ("verb", "group", "resource", "namespace", "name", "subresource"))
        )
        why = reason(self, user, asked)
        found = {"allowed": False} if why is None else {"allowed": True, "reason": why}
        return answered(
            {
                "kind": "SelfSubjectAccessReview",
                "apiVersion": "authorization.k8s.io/v1",
                "metadata": {},
                "spec": body["spec"],
                "status": found,
            },
            201,
        )
