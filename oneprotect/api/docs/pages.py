"""`/openapi.json`, and the same for people at `/docs`: rendered here, with no script and nothing from elsewhere."""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from oneprotect.api.docs import openapi
from oneprotect.api.operations.operation import ApiOperation, ApiResponse, ResponseDoc
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
    """The operations that tell of `operations`, and of themselves."""
    told: list[ApiOperation] = list(operations)

    @cache
    def document() -> Json:
        return openapi.document(told)

    @cache
    def page() -> bytes:
        return _page(document())

    async def specification(_: ApiRequest) -> ApiResponse:
        return ApiResponse(body=document(), headers={"cache-control": "no-cache"})

    async def documentation(_: ApiRequest) -> ApiResponse:
        return ApiResponse(body=page(), media_type=HTML, headers=SECURITY)

    async def style(_: ApiRequest) -> ApiResponse:
        return ApiResponse(body=_style(), media_type=CSS, headers={"cache-control": "max-age=3600"})

    of = (
        ("/openapi.json", "specification", "This document", specification, "application/json"),
        ("/docs", "documentation", "This document for people", documentation, HTML),
        ("/docs/style.css", "documentationStyle", "How that looks", style, CSS),
    )
    ours = tuple(
        ApiOperation(
            method="GET",
            path=path,
            name=name,
            summary=summary,
            tag="operating",
            handle=handle,
            says={200: ResponseDoc(what="Here it is.", media_type=kind)},
        )
        for path, name, summary, handle, kind in of
    )
    told += ours
    return ours


@cache
def _style() -> bytes:
    return (PAGES / "docs.css").read_bytes()


def _page(found: Json) -> bytes:
    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return pages.get_template("docs.html").render(_contents(found)).encode()


def _contents(found: Json) -> dict[str, Any]:
    shown = [
        _operation(found, path, method, operation)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    return {
        "info": found["info"],
        "tags": [
            {
                "name": tag["name"],
                "about": tag["description"],
                "operations": [one for one in shown if one["tag"] == tag["name"]],
            }
            for tag in found["tags"]
        ],
        "schemas": [
            {"name": name, "about": schema.get("description", ""), "text": _text(schema)}
            for name, schema in found["components"]["schemas"].items()
        ],
    }


def _operation(found: Json, path: str, method: str, operation: Json) -> dict[str, Any]:
    content: Json = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = list(_answers(found, operation))
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "paragraphs": operation["description"].split("\n\n"),
        "parameters": [_parameter(parameter) for parameter in operation["parameters"]],
        "body": _name(content),
        "body_example": _text(content["example"]) if "example" in content else "",
        "answers": answers,
        "example": next((answer["example"] for answer in answers if answer["example"]), ""),
    }


def _parameter(parameter: Json) -> dict[str, str]:
    schema = parameter["schema"]
    takes = schema.get("format") or schema.get("pattern") or schema["type"]
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "takes": takes,
        "about": parameter.get("description", ""),
    }


def _answers(found: Json, operation: Json) -> Iterator[dict[str, str]]:
    for status, response in operation["responses"].items():
        is_problem = "$ref" in response
        said = found["components"]["responses"][status] if is_problem else response
        contents: list[Json] = [*said.get("content", {}).values()]
        content = contents[0] if contents else Json()
        yield {
            "status": status,
            "about": said["description"],
            "schema": _name(content),
            "example": "" if is_problem or "example" not in content else _text(content["example"]),
        }


def _name(content: Json) -> str:
    return str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]


def _text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
