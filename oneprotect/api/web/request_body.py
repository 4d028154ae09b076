"""Request bodies and query strings: read within bounds of size and time, decoded into our types."""

import asyncio
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.inspect import IntType, Metadata, Type, VarTupleType, type_info
from starlette.requests import Request

from oneprotect.api.web.problems import Problem
from schemas.validation import ValidationError

T = TypeVar("T", bound=Struct)

_WHOLE: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)

ENVELOPE_BYTES: Final = 64 * 1024
"""What may stand around a payload."""


class BodyLimits(Struct, frozen=True, kw_only=True):
    """How much, and for how long."""

    body_bytes: int
    body_timeout_s: float = 10.0


def is_there(request: Request) -> bool:
    """Whether the request has a body."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def read(request: Request, limits: BodyLimits) -> bytes:
    """The whole body, if it is JSON by its headers, not too large and not too slow. Raises `Problem`."""
    _require_json(request)
    return await read_bytes(request, limits)


async def read_bytes(request: Request, limits: BodyLimits) -> bytes:
    """The whole body, if it is not too large and not too slow. Raises `Problem`."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 12 or int(declared) > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, limits)
    except TimeoutError:
        pass
    raise Problem(
        408,
        "too-slow",
        f"The body took more than {limits.body_timeout_s:g} s to come.",
        headers={"connection": "close"},
    )


async def _read(request: Request, limits: BodyLimits) -> bytes:
    body = bytearray()
    while True:
        event: Any = await request.receive()
        if event["type"] == "http.disconnect":
            raise Problem(400, "bad-request", "The request ended before its body did.")
        body += event.get("body", b"")
        if len(body) > limits.body_bytes:
            raise _too_large(limits)
        if not event.get("more_body", False):
            return bytes(body)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as a `kind`. Raises `Problem` for what is not JSON, and `ValidationError` for what breaks a rule."""
    try:
        if not body.isascii():
            body.decode()
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem: Exception = ValidationError.of(error)
    except UnicodeDecodeError as error:
        problem = _bad(f"The body is not UTF-8 (byte {error.start}).")
    except RecursionError:
        problem = _bad("The body is nested too deep.")
    except msgspec.DecodeError as error:
        text = str(error)
        place = text.rpartition("(")[2].rstrip(")") if "(byte" in text else "at its end"
        problem = _bad(f"The body is not JSON ({place}).")
    raise problem


def query(items: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """A query string as a `kind`: each parameter once, but for those that are lists. Raises `ValidationError`."""
    types = _types(kind)
    given: dict[str, Any] = {}
    for name, text in items:
        if name not in types:
            raise ValidationError(None, f"a parameter that does not exist here; there are {', '.join(types)}")
        if types[name] is VarTupleType:
            given.setdefault(name, []).append(text)
        elif name in given:
            raise ValidationError(name, "given twice")
        else:
            given[name] = int(text) if types[name] is IntType and _WHOLE.fullmatch(text) else text
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


@cache
def _types(kind: type[Struct]) -> dict[str, type[Type]]:
    """What kind of type each field has."""
    return {field.encode_name: type(_bare(type_info(field.type))) for field in msgspec.structs.fields(kind)}


def _bare(found: Type) -> Type:
    """The type without what is said about it."""
    return _bare(found.type) if isinstance(found, Metadata) else found


def _require_json(request: Request) -> None:
    kind, _, parameters = request.headers.get("content-type", "application/json").partition(";")
    kind, parameters = kind.strip().lower(), parameters.replace(" ", "").lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise Problem(415, "unsupported-media-type", "The body must be JSON: `content-type: application/json`.")
    if parameters not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise Problem(415, "unsupported-media-type", "JSON is UTF-8, and has no other parameters.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "unsupported-media-type", "The body must not be compressed.")


def _too_large(limits: BodyLimits) -> Problem:
    return Problem(
        413, "too-large", f"The body has more than {limits.body_bytes} bytes.", headers={"connection": "close"}
    )


def _bad(detail: str) -> Problem:
    return Problem(400, "bad-request", detail)
