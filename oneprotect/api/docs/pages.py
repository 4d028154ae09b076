"""`/openapi.json`, and its documentation page `/docs`, which uses no script and no other site."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from oneprotect.api.docs import openapi
from oneprotect.api.operations.operation import ApiOperation, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from schemas.json_schema import Json

PAGES: Final = Path(__file__).parent.parent / "pages"
HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
SECURITY: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def docs_operations(operations: Iterable[ApiOperation]) -> tuple[ApiOperation, ...]:
    """Return the operations that document `operations` and themselves."""
    group = OperationGroup("operating")

    @cache
    def document() -> Json:
        return openapi.document([*operations, *group])

    @cache
    def page() -> bytes:
        return _render(document())

    @group.add("GET", "/openapi.json", {200: ResponseDoc("The OpenAPI document.", media_type="application/json")})
    async def specification(_: ApiRequest) -> ApiResponse:
        """Get the OpenAPI document."""
        return ApiResponse(body=document(), headers={"cache-control": "no-cache"})

    @group.add("GET", "/docs", {200: ResponseDoc("The documentation page.", media_type=HTML)})
    async def documentation(_: ApiRequest) -> ApiResponse:
        """Get the documentation page."""
        return ApiResponse(body=page(), media_type=HTML, headers=SECURITY)

    @group.add("GET", "/docs/style.css", {200: ResponseDoc("The style sheet.", media_type=CSS)})
    async def documentation_style(_: ApiRequest) -> ApiResponse:
        """Get the style sheet of the documentation page."""
        return ApiResponse(body=_style(), media_type=CSS, headers={"cache-control": "max-age=3600"})

    return tuple(group)


@cache
def _style() -> bytes:
    return (PAGES / "docs.css").read_bytes()


def _render(document: Json) -> bytes:
    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters |= {"json": _to_json, "schema_name": _schema_name}
    return pages.get_template("docs.html").render(document).encode()


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _schema_name(content: Json) -> str:
    return str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
