"""What an API server says, to the letter: held against the double always, and against a real one when there is one.

The tests of the provider are worth what the double is worth, so this pins what they rest on.
"""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.kubernetes.clusters import CLUSTERS, opened_cluster
from tests.kubernetes.livecluster import LiveCluster, Reply
from tests.kubernetes.manifests import KEY, PURPOSE_LABEL, TENANT_LABEL, manifest
from tests.kubernetes.statuses import forbidden, not_found, unauthorized

LABELS = {TENANT_LABEL: "acme", PURPOSE_LABEL: "webhook-signing"}
SELECTED = "?fieldSelector=metadata.name%3Dacme-signing"


@pytest_asyncio.fixture(params=CLUSTERS)
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LiveCluster]:
    """With the Secret `acme-signing`, which the service account may get, as it may `not-there-yet`."""
    async with opened_cluster(request.param, tmp_path) as opened:
        await opened.put(manifest())
        await opened.put(manifest(name="globex-signing"))
        await opened.grant("acme-signing", "not-there-yet")
        yield opened


async def get(cluster: LiveCluster, path: str, *, token: str | None = None) -> Reply:
    """Send a GET, as the service account by default."""
    return await cluster.request("GET", path, token=token or cluster.token)


def is_exactly(reply: Reply, document: dict[str, Any]) -> bool:
    """Return whether the response is this document, in order, as compact JSON."""
    assert reply.content_type == "application/json"
    assert (reply.document, list(reply.document)) == (document, list(document))
    return reply.status == document["code"] and b"\n" not in reply.body.rstrip(b"\n")


async def test_a_granted_secret_is_returned_in_full(cluster: LiveCluster) -> None:
    """The answer has kind, names, labels, type, base64 data, a uid and an opaque version."""
    reply = await get(cluster, cluster.path("acme-signing"))

    document, metadata = reply.document, reply.document["metadata"]
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert list(document)[:3] == ["kind", "apiVersion", "metadata"]
    assert set(document) == {"kind", "apiVersion", "metadata", "data", "type"}
    assert (document["kind"], document["apiVersion"], document["type"]) == ("Secret", "v1", "Opaque")
    assert document["data"] == {"signing": base64.b64encode(KEY).decode()}
    assert (metadata["name"], metadata["namespace"], metadata["labels"]) == ("acme-signing", cluster.namespace, LABELS)
    assert isinstance(metadata["uid"], str)
    assert metadata["resourceVersion"].isdigit()


async def test_a_changed_secret_has_another_version_and_a_recreated_one_another_uid(cluster: LiveCluster) -> None:
    """A version made of both changes with either."""
    before = (await get(cluster, cluster.path("acme-signing"))).document
    changed = await cluster.request(
        "PUT", cluster.path("acme-signing"), {**before, "data": {"signing": base64.b64encode(KEY[::-1]).decode()}}
    )
    recreated = await cluster.put(manifest())

    first, second = before["metadata"], changed.document["metadata"]
    assert changed.status == 200
    assert first["uid"] == second["uid"]
    assert first["resourceVersion"] != second["resourceVersion"]
    assert not recreated.startswith(first["uid"])


async def test_plain_values_come_back_encoded(cluster: LiveCluster) -> None:
    """`stringData` is write-only."""
    await cluster.put(manifest(data={}, stringData={"signing": KEY.decode()}))

    document = (await get(cluster, cluster.path("acme-signing"))).document

    assert document["data"] == {"signing": base64.b64encode(KEY).decode()}
    assert "stringData" not in document


async def test_an_absent_secret_that_is_granted_is_not_found(cluster: LiveCluster) -> None:
    """A permitted user sees 404 for an absent Secret, also right after its deletion."""
    absent = await get(cluster, cluster.path("not-there-yet"))
    await cluster.request("DELETE", cluster.path("acme-signing"))
    deleted = await get(cluster, cluster.path("acme-signing"))

    assert is_exactly(absent, not_found("secrets", "not-there-yet"))
    assert is_exactly(deleted, not_found("secrets", "acme-signing"))


@pytest.mark.parametrize("name", ["globex-signing", "nothing-at-all"])
async def test_a_secret_that_is_not_granted_is_forbidden(cluster: LiveCluster, name: str) -> None:
    """The answer is identical for existing and absent Secrets."""
    reply = await get(cluster, cluster.path(name))

    expected = forbidden(cluster.user, "get", "secrets", namespace=cluster.namespace, name=name)
    assert is_exactly(reply, expected)


async def test_another_namespace_is_forbidden(cluster: LiveCluster) -> None:
    """A Role ends at its namespace."""
    reply = await get(cluster, cluster.path("acme-signing", namespace="default"))

    expected = forbidden(cluster.user, "get", "secrets", namespace="default", name="acme-signing")
    assert is_exactly(reply, expected)


async def test_an_unknown_token_is_unauthorized(cluster: LiveCluster) -> None:
    """The answer says nothing about the requested object."""
    reply = await get(cluster, cluster.path("acme-signing"), token="nobody")

    assert is_exactly(reply, unauthorized())


@pytest.mark.parametrize(("query", "verb"), [("", "list"), ("?watch=true", "watch")])
async def test_secrets_cannot_be_listed_or_watched(cluster: LiveCluster, query: str, verb: str) -> None:
    """`get` on a name gives no permission on the collection."""
    reply = await get(cluster, cluster.path() + query)

    assert is_exactly(reply, forbidden(cluster.user, verb, "secrets", namespace=cluster.namespace))


async def test_a_selected_list_is_forbidden_without_its_verb(cluster: LiveCluster) -> None:
    """The name in a field selector counts as the name of the request."""
    reply = await get(cluster, cluster.path() + SELECTED)

    expected = forbidden(cluster.user, "list", "secrets", namespace=cluster.namespace, name="acme-signing")
    assert is_exactly(reply, expected)


async def test_a_list_of_names_covers_a_list_that_selects_one_of_them(cluster: LiveCluster) -> None:
    """With the verb `list`, a named Secret may be listed, but not the whole collection."""
    await cluster.grant("acme-signing", verbs=("get", "list"))

    selected = await get(cluster, cluster.path() + SELECTED)
    everything = await get(cluster, cluster.path())

    assert (selected.status, selected.document["kind"]) == (200, "SecretList")
    assert [item["metadata"]["name"] for item in selected.document["items"]] == ["acme-signing"]
    assert is_exactly(everything, forbidden(cluster.user, "list", "secrets", namespace=cluster.namespace))


async def test_no_names_in_a_role_are_all_names(cluster: LiveCluster) -> None:
    """An empty list of names allows every Secret, so the product never creates such a Role."""
    await cluster.grant(verbs=("get",))

    reply = await get(cluster, cluster.path("globex-signing"))

    assert (reply.status, reply.document["metadata"]["name"]) == (200, "globex-signing")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_secret_that_may_be_read_may_not_be_changed(cluster: LiveCluster, method: str) -> None:
    """Each verb needs its own permission."""
    verb = {"PUT": "update", "DELETE": "delete"}[method]
    body = manifest(namespace=cluster.namespace)

    reply = await cluster.request(method, cluster.path("acme-signing"), body, token=cluster.token)

    expected = forbidden(cluster.user, verb, "secrets", namespace=cluster.namespace, name="acme-signing")
    assert is_exactly(reply, expected)


async def test_a_service_account_may_review_its_own_access(cluster: LiveCluster) -> None:
    """Every user may review their own access, and the answer names the binding."""
    reply = await cluster.review("get", "acme-signing")

    assert reply.status == 201
    assert reply.document["kind"] == "SelfSubjectAccessReview"
    assert reply.document["status"] == {
        "allowed": True,
        "reason": (
            f'RBAC: allowed by RoleBinding "consumer/{cluster.namespace}" of Role "consumer"'
            f' to ServiceAccount "consumer/{cluster.namespace}"'
        ),
    }


async def test_a_service_account_with_get_alone_may_do_nothing_else(cluster: LiveCluster) -> None:
    """Access reviews deny every other verb; the check for excess permissions relies on this."""
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete")

    allowed = [
        (verb, name) for verb in verbs for name in ("", "acme-signing", "other") if await cluster.may(verb, name)
    ]
    denied = await cluster.review("list")

    assert allowed == [("get", "acme-signing")]
    assert (denied.status, denied.document["status"]) == (201, {"allowed": False})


async def test_a_revoked_permission_is_gone(cluster: LiveCluster) -> None:
    """A Role without a binding grants nothing."""
    await cluster.revoke("acme-signing")

    reply = await get(cluster, cluster.path("acme-signing"))

    assert reply.status == 403
