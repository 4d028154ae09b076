"""Faults of the API server, each with a secret or a token where an error message would quote it."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from provider.secret_manifest import MAX_BYTES
from tests.kubernetes import faults as plain
from tests.kubernetes.apiserver import Answer, ApiServer
from tests.kubernetes.manifests import Manifest

Fault = Callable[[ApiServer, Manifest], Answer]
"""Made of the server, and of the Secret that should have been answered."""


def text_of(document: Manifest) -> str:
    """The Secret, as JSON."""
    return json.dumps(document)


def value_of(document: Manifest) -> str:
    """Return the Secret's value in base64."""
    return str(document["data"]["signing"])


def faults() -> dict[str, Fault]:
    """All there are: those below, and every one that the double of the API server knows."""
    answers = inspect.getmembers(plain, inspect.isfunction)
    return BAITED | {name: _of(made) for name, made in answers if inspect.signature(made).return_annotation == Answer}


def _of(make: Callable[..., Answer]) -> Fault:
    """Return a fault of the test double, called with the parameters that it names."""

    def fault(server: ApiServer, document: Manifest) -> Answer:
        known: dict[str, Any] = {
            "server": server,
            "document": document,
            "status": 503,
            "size": MAX_BYTES,
            "text": text_of(document),
        }
        parameters = inspect.signature(make).parameters.values()
        needed = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
        return make(**{name: known[name] for name in needed})

    return fault


def whole(status: int, text: Callable[[Manifest], str] = text_of, **headers: str) -> Fault:
    """This status, and the Secret all the same."""
    return lambda _, document: plain.saying(status, text(document), "application/json", **headers)


def changed(change: Callable[[Any, str], object]) -> Fault:
    """A Secret that `change` has put its value into where it does not belong."""

    def fault(_: ApiServer, document: Manifest) -> Answer:
        copy = json.loads(text_of(document))
        change(copy, value_of(document))
        return plain.saying(200, text_of(copy), "application/json")

    return fault


def broken(rewrite: Callable[[bytes], bytes]) -> Fault:
    """The Secret, with its JSON broken."""

    def fault(_: ApiServer, document: Manifest) -> Answer:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=rewrite(text_of(document).encode()), content_type="application/json")

        return answer

    return fault


def no_http(write: Callable[[bytes, bytes], bytes]) -> Fault:
    """Return invalid HTTP that contains the Secret's value and the received `Authorization` header."""

    def fault(_: ApiServer, document: Manifest) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.write(write(value_of(document).encode(), request.headers["Authorization"].encode()))
            request.transport.close()
            return web.Response()

        return answer

    return fault


def echo(status: int) -> Fault:
    """Return the request, with its headers, in the body and in the headers."""

    async def answer(request: web.Request) -> web.StreamResponse:
        text = f"{request.path_qs} {dict(request.headers)}"
        return web.Response(status=status, text=text, headers={"WWW-Authenticate": request.headers["Authorization"]})

    return lambda _, __: answer


BAITED: dict[str, Fault] = {
    "400 with the Secret": whole(400),
    "403 with the Secret": whole(403),
    "404 with the Secret": whole(404),
    "429 with the Secret": whole(429),
    "500 with the Secret": whole(500),
    "504 with the Secret": whole(504),
    "206 with the Secret": whole(206),
    "html around it": whole(200, lambda document: f"<html>{text_of(document)}</html>"),
    "redirect to it": lambda _, document: plain.saying(302, Location=f"/?token={value_of(document)}"),
    "told when to retry": lambda _, document: plain.saying(429, Retry_After=value_of(document)),
    "a header with it": lambda _, document: plain.saying(500, X_Debug=value_of(document)),
    "a cookie of it": lambda _, document: plain.saying(500, Set_Cookie=f"a={value_of(document)}"),
    "401 with our token": echo(401),
    "403 with our token": echo(403),
    "500 with our token": echo(500),
    "no UTF-8": broken(lambda body: body.replace(b'"signing"', b'"sign\xff\xfe"')),
    "no UTF-8 in the value": broken(lambda body: body.replace(b'{"signing": "', b'{"signing": "\xc3')),
    "no base64": broken(lambda body: body.replace(b'{"signing": "', b'{"signing": "!')),
    "surplus": broken(lambda body: body + body),
    "nested too deep": broken(lambda body: b'{"a": ' * 100_000 + body),
    "a number": broken(lambda body: body.replace(b'{"signing": "', b'{"signing": 1, "other": "')),
    "its kind": changed(lambda to, value: to.update(kind=value)),
    "its API version": changed(lambda to, value: to.update(apiVersion=value)),
    "its type": changed(lambda to, value: to.update(type=value)),
    "its name": changed(lambda to, value: to["metadata"].update(name=value)),
    "its uid": changed(lambda to, value: to["metadata"].update(uid=value * 3)),
    "its labels": changed(lambda to, value: to["metadata"].update(labels=value)),
    "its owner": changed(lambda to, value: to["metadata"]["labels"].update({"oneprotect.io/tenant": value})),
    "its date of deletion": changed(lambda to, value: to["metadata"].update(deletionTimestamp=value)),
    "its data": changed(lambda to, value: to.update(data=value)),
    "a name in its data": changed(lambda to, value: to.update(data={value: 1})),
    "its plain data": changed(lambda to, value: to.update(stringData={"signing": value})),
    "a broken status line": no_http(lambda value, token: b"HTTP/1.1 2OO " + value + token + b"\r\n\r\n"),
    "a broken header": no_http(lambda value, token: b"HTTP/1.1 200 OK\r\n" + value + b" " + token + b"\r\n\r\n"),
    "a broken length": no_http(lambda value, _: b"HTTP/1.1 200 OK\r\nContent-Length: " + value + b"\r\n\r\n"),
    "a broken chunk": no_http(
        lambda value, token: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + value + token + b"\r\n"
    ),
}
