"""Credentials over HTTP. A ref goes in and never comes out."""

from typing import Final

import msgspec

from consumers.credentials.control_client import NoConsumerReplied, check_credential
from oneprotect.api.operations.operation import ADMINS, KEEPERS, READERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.preconditions import HEADERS, entity_tag, read_precondition
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import Page, PageQuery, page_of
from oneprotect.api.web.problems import RETRY_AFTER_S, Problem
from schemas.configuration import Credential, CredentialView

LIST: Final = "/v1/tenants/{tenant}/credentials"
ONE: Final = LIST + "/{id}"


class CredentialPage(Page[CredentialView], frozen=True):
    """Credentials by id."""


EXAMPLE_VIEW: Final = {
    "id": "orders-key",
    "tenant": "acme",
    "purpose": "webhook-signing",
    "provider": "kubernetes",
    "status": "configured",
    "checked_at": "2026-11-23T20:00:00Z",
    "version": "0c3f0b0e-8a55-4a38-9a5e-6f1f5e0f7a11/48213",
    "rollover": {"active": False, "expires_at": None, "misconfigured": False},
    "revision": 4,
}


async def list_credentials(call: ApiRequest) -> ApiResponse:
    """All of the tenant's, by id."""
    query = call.query(PageQuery)
    views = await call.parts.configuration.list_credentials(call.tenant)
    page = page_of(views, query, key=lambda view: view.id)
    return ApiResponse(body=Page([_public(call, view) for view in page.items], page.next))


async def put_credential(call: ApiRequest) -> ApiResponse:
    """Create or replace."""
    condition = read_precondition(call)
    asked = await call.body(Credential)
    view = await call.parts.configuration.set_credential(
        call.tenant, call.id, msgspec.structs.asdict(asked), by=call.by, address=call.address, precondition=condition
    )
    return _shown(call, view)


async def get_credential(call: ApiRequest) -> ApiResponse:
    """One of them."""
    return _shown(call, await call.parts.configuration.get_credential(call.tenant, call.id))


async def delete_credential(call: ApiRequest) -> ApiResponse:
    """Forget it."""
    await call.parts.configuration.delete_credential(
        call.tenant, call.id, by=call.by, address=call.address, precondition=read_precondition(call)
    )
    return ApiResponse(status=204)


async def check(call: ApiRequest) -> ApiResponse:
    """Have a consumer read its Secret now."""
    view = await call.parts.configuration.get_credential(call.tenant, call.id)
    try:
        state = await check_credential(call.parts.connection, call.tenant, call.id)
    except NoConsumerReplied:
        state = None
    if state is None:
        raise Problem(
            503,
            "no-consumer",
            "No consumer answered, and only consumers can read Secrets. Try again when one runs.",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
    return _shown(
        call,
        msgspec.structs.replace(
            view,
            provider=state.provider,
            status=state.status,
            checked_at=state.checked_at,
            version=state.version,
            rollover=state.rollover,
        ),
    )


def _public(call: ApiRequest, view: CredentialView) -> CredentialView:
    """What whoever asks may know of it."""
    return view if call.principal.is_operator else msgspec.structs.replace(view, status=view.status.public)


def _shown(call: ApiRequest, view: CredentialView) -> ApiResponse:
    return ApiResponse(body=_public(call, view), headers={"etag": entity_tag(view.revision)})


_ONE: Final = ResponseDoc(
    what="The credential, without its ref. `status` says exactly what is wrong to operators alone: to anybody else, "
    "missing, mismatched and denied Secrets are `unavailable`.",
    body=CredentialView,
    example=EXAMPLE_VIEW,
    headers={"ETag": "The revision of what was written; `If-Match` takes it. A new `status` does not change it."},
)

OPERATIONS: Final = (
    ApiOperation(
        method="GET",
        path=LIST,
        name="listCredentials",
        summary="List credentials",
        tag="credentials",
        roles=READERS,
        handle=list_credentials,
        query=PageQuery,
        says={
            200: ResponseDoc(
                what="A page of credentials, by id.",
                body=CredentialPage,
                example={"items": [EXAMPLE_VIEW], "next": None},
            )
        },
    ),
    ApiOperation(
        method="PUT",
        path=ONE,
        name="putCredential",
        summary="Create a credential, or replace it",
        description="`secret_ref` names a key in a Kubernetes Secret. It is never shown again, and it is never the "
        "secret itself. The Secret must carry the labels `oneprotect.io/tenant` and `oneprotect.io/purpose`.",
        tag="credentials",
        roles=ADMINS,
        handle=put_credential,
        body=Credential,
        body_example={"secret_ref": "k8s://webhooks/acme-orders/signing", "purpose": "webhook-signing"},
        headers=HEADERS,
        says={200: _ONE},
        problems=(409, 412),
    ),
    ApiOperation(
        method="GET",
        path=ONE,
        name="getCredential",
        summary="Show a credential",
        tag="credentials",
        roles=READERS,
        handle=get_credential,
        says={200: _ONE},
        problems=(404,),
    ),
    ApiOperation(
        method="DELETE",
        path=ONE,
        name="deleteCredential",
        summary="Delete a credential that no destination uses",
        description="The Secret stays as it is.",
        tag="credentials",
        roles=ADMINS,
        handle=delete_credential,
        headers=HEADERS,
        says={204: ResponseDoc(what="It is gone.")},
        problems=(404, 409, 412),
    ),
    ApiOperation(
        method="POST",
        path=ONE + "/check",
        name="checkCredential",
        summary="Have the credential's Secret read now",
        description="A consumer does, as the API itself cannot read Secrets. What waits for a Secret that is found "
        "goes on at once.",
        tag="credentials",
        roles=KEEPERS,
        handle=check,
        says={200: _ONE},
        problems=(404,),
    ),
)
