"""Credentials over HTTP. No response holds a secret ref."""

from functools import partial
from typing import Final

import msgspec

from consumers.credentials import control_client
from oneprotect.api.operations.operation import ADMINS, MANAGERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.preconditions import HEADERS, format_entity_tag, read_precondition
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import to_public_credential
from oneprotect.api.web.pagination import Page, PageQuery, read_list_page
from oneprotect.api.web.problems import RETRY_AFTER_S, Problem
from schemas.configuration import Credential, CredentialView

OPERATIONS: Final = OperationGroup("credentials")
LIST: Final = "/v1/tenants/{tenant}/credentials"
ONE: Final = LIST + "/{id}"


class CredentialPage(Page[CredentialView], frozen=True):
    """Credentials by id."""


EXAMPLE: Final = {
    "id": "orders-key",
    "tenant": "acme",
    "purpose": "webhook-signing",
    "provider": "kubernetes",
    "status": "configured",
    "checked_at": "2026-11-23T20:00:00Z",
    "version": "0c3f0b0e-8a55-4a38-9a5e-6f1f5e0f7a11/48213",
    "rollover": {"active": False, "expires_at": None, "misconfigured": False},
    "resuming_since": None,
    "revision": 4,
}
_ONE: Final = {
    200: ResponseDoc(
        "The credential, without its secret ref. Operators see the exact `status`. Others see `unavailable` for a "
        "missing, mismatched or denied Secret.",
        CredentialView,
        EXAMPLE,
        {"ETag": "The revision of the configuration, for `If-Match`. A new `status` does not change it."},
    )
}


@OPERATIONS.add(
    "GET",
    LIST,
    {200: ResponseDoc("A page of credentials, by id.", CredentialPage, {"items": [EXAMPLE], "next": None})},
    roles=READERS,
    query=PageQuery,
    reads_many=True,
)
async def list_credentials(request: ApiRequest) -> ApiResponse:
    """List credentials."""
    read = partial(request.parts.configuration.page_credentials, request.tenant)
    page = await read_list_page(request.query(PageQuery), read)
    items = [to_public_credential(view, public=request.is_public) for view in page.items]
    return ApiResponse(body=Page(items, page.next))


@OPERATIONS.add(
    "PUT",
    ONE,
    _ONE,
    roles=ADMINS,
    body=Credential,
    body_example={"secret_ref": "k8s://webhooks/acme-orders/signing", "purpose": "webhook-signing"},
    headers=HEADERS,
    problems=(409, 412),
)
async def put_credential(request: ApiRequest) -> ApiResponse:
    """Create or replace a credential.

    `secret_ref` names a key in a Kubernetes Secret. It is not the secret itself, and no response contains it. The
    Secret must have the labels `oneprotect.io/tenant` and `oneprotect.io/purpose`.
    """
    condition = read_precondition(request)
    fields = msgspec.structs.asdict(await request.body(Credential))
    return _respond(
        request,
        await request.parts.configuration.set_credential(
            request.tenant, request.id, fields, by=request.by, address=request.address, precondition=condition
        ),
    )


@OPERATIONS.add("GET", ONE, _ONE, roles=READERS, problems=(404,))
async def get_credential(request: ApiRequest) -> ApiResponse:
    """Get a credential."""
    return _respond(request, await request.parts.configuration.get_credential(request.tenant, request.id))


@OPERATIONS.add(
    "DELETE",
    ONE,
    {204: ResponseDoc("The credential is deleted.")},
    roles=ADMINS,
    reads_many=True,
    headers=HEADERS,
    problems=(404, 409, 412),
)
async def delete_credential(request: ApiRequest) -> ApiResponse:
    """Delete a credential that no destination uses.

    The Kubernetes Secret is not changed.
    """
    await request.parts.configuration.delete_credential(
        request.tenant, request.id, by=request.by, address=request.address, precondition=read_precondition(request)
    )
    return ApiResponse(status=204)


@OPERATIONS.add("POST", ONE + "/check", _ONE, roles=MANAGERS, problems=(404,))
async def check_credential(request: ApiRequest) -> ApiResponse:
    """Check the Secret of a credential now.

    A consumer reads the Secret, as the API cannot. If the Secret is usable, deliveries that wait for it resume at once.
    """
    view = await request.parts.configuration.get_credential(request.tenant, request.id)
    try:
        state = await control_client.check_credential(request.parts.connection, request.tenant, request.id)
    except control_client.NoConsumerReplied:
        state = None
    if state is None:
        raise Problem(
            503,
            "no-consumer",
            "No consumer responded, and only consumers can read Secrets. Start a consumer and retry.",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
    return _respond(request, msgspec.structs.replace(view, **msgspec.structs.asdict(state)))


def _respond(request: ApiRequest, view: CredentialView) -> ApiResponse:
    body = to_public_credential(view, public=request.is_public)
    return ApiResponse(body=body, headers={"etag": format_entity_tag(view.revision)})
