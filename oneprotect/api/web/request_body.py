"""Request bodies and query strings: read within limits of size and time, and decoded into typed values."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.inspect import IntType, Metadata, Type, VarTupleType, type_info
from starlette.requests import Request

from oneprotect.api.web.problems import Problem
from schemas.validation import ValidationError

T = TypeVar("T", bound=Struct)
AnyT = TypeVar("AnyT")

_WHOLE: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)

ENVELOPE_BYTES: Final = 64 * 1024
"""The maximum size of a delivery request without its payload."""


class BodyLimits(Struct, frozen=True, kw_only=True):
    """The maximum size and duration of a request body."""

    body_bytes: int
    body_timeout_s: float = 10.0


def has_body(request: Request) -> bool:
    """Return true if the request has a body."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def read_bytes(request: Request, limits: BodyLimits) -> bytes:
    """Return the body. Raises `Problem` when it exceeds the limits."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 12 or int(declared) > limits.body_bytes:
        raise too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _receive(request, limits)
    except TimeoutError:
        pass
    raise Problem(
        408,
        "too-slow",
        f"The body did not arrive within {limits.body_timeout_s:g} seconds. Retry the request.",
        headers={"connection": "close"},
    )


async def _receive(request: Request, limits: BodyLimits) -> bytes:
    body = bytearray()
    while True:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise Problem(400, "bad-request", "The request ended before its body was complete. Retry the request.")
        body += event.get("body", b"")
        if len(body) > limits.body_bytes:
            raise too_large(limits)
        if not event.get("more_body", False):
            return bytes(body)


def decode(body: bytes, kind: type[AnyT]) -> AnyT:
    """Decode a JSON body. Raises `Problem` for malformed JSON, and `ValidationError` for a broken rule."""
    try:
        if not body.isascii():
            body.decode()
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem: Exception = ValidationError.of(error)
    except UnicodeDecodeError as error:
        problem = _malformed(f"The body is not valid UTF-8 (byte {error.start}).")
    except RecursionError:
        problem = _malformed("The body is nested too deeply.")
    except msgspec.DecodeError as error:
        text = str(error)
        place = text.rpartition("(")[2].rstrip(")") if "(byte" in text else "at its end"
        problem = _malformed(f"The body is not valid JSON ({place}).")
    raise problem  # here, so that it has no context: the context would hold the input


def decode_query(items: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """Decode the parameters of a query string. Raises `ValidationError`."""
    types = _field_types(kind)
    given: dict[str, Any] = {}
    for name, text in items:
        if name not in types:
            raise ValidationError(None, f"unknown query parameter; the parameters are {', '.join(types)}")
        if types[name] is VarTupleType:
            given.setdefault(name, []).append(text)
        elif name in given:
            raise ValidationError(name, "given twice; give it once")
        else:
            given[name] = int(text) if types[name] is IntType and _WHOLE.fullmatch(text) else text
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


@cache
def _field_types(kind: type[Struct]) -> dict[str, type[Type]]:
    return {field.encode_name: type(_without_metadata(type_info(field.type))) for field in msgspec.structs.fields(kind)}


def _without_metadata(found: Type) -> Type:
    return _without_metadata(found.type) if isinstance(found, Metadata) else found


def require_json(headers: Mapping[str, str]) -> None:
    """Raise `Problem` unless the headers, by names in lower case, are those of an uncompressed JSON body."""
    content_type = headers.get("content-type", "application/json")
    if not is_json(content_type):
        raise Problem(415, "unsupported-media-type", "The body must be JSON. Send `content-type: application/json`.")
    if content_type.partition(";")[2].replace(" ", "").lower() not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise Problem(415, "unsupported-media-type", "The body must be UTF-8. Send no content type parameter.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "unsupported-media-type", "The body must not be compressed. Send no `content-encoding`.")


def is_json(content_type: str) -> bool:
    """Return true if the media type is JSON, or a format that is written in JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def too_large(limits: BodyLimits) -> Problem:
    """Return the problem of a body that exceeds the limits."""
    detail = f"The body exceeds {limits.body_bytes} bytes. Send a smaller one."
    return Problem(413, "too-large", detail, headers={"connection": "close"})


def _malformed(detail: str) -> Problem:
    return Problem(400, "bad-request", detail)
