"""Leaks restored on purpose: the search finds each leak that a library or a habit causes."""

import asyncio
import io
import json
import logging
import pprint
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import structlog
from rich.console import Console

from provider.errors import SecretUnavailable
from provider.kubernetes.kubeconfig import load_kubeconfig
from tests.leak.support import cluster
from tests.leak.support.cluster import Cluster
from tests.leak.support.listening import Listener
from tests.leak.support.sinks import Sinks
from tests.leak.support.tracebacks import LOCALS
from tests.support.leaks import Canary, Search
from tests.support.receiver import Scripted

PATH = "/api/v1/namespaces/webhooks/secrets/acme-signing"


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose Secret is a canary."""
    async with cluster.running(tmp_path) as running:
        yield running


async def _read_with_library(running: Cluster) -> Any:
    """Read the Secret with the client of kubernetes-asyncio, which the provider does not use."""
    from kubernetes_asyncio import client as untyped

    library: Any = untyped
    configuration = library.Configuration(host=running.server.url)
    configuration.ssl_ca_cert = str(running.server.authority.ca_file)
    configuration.api_key["BearerToken"] = f"Bearer {running.token.reveal()}"
    async with library.ApiClient(configuration) as client:
        return await library.CoreV1Api(client).read_namespaced_secret("acme-signing", "webhooks")


def _found(sinks: Sinks, *canaries: Canary) -> set[str]:
    """The sinks in which there is something to be found."""
    return {line.partition(": ")[0] for line in sinks.findings(Search(*canaries))}


async def test_without_the_filter_the_library_logs_whole_secrets(
    listener: Listener, sinks: Sinks, running: Cluster
) -> None:
    """At DEBUG, the client of kubernetes-asyncio logs the body; the filter of the provider drops the record."""
    logger = logging.getLogger("kubernetes_asyncio.client.rest")
    listener.turn_up()

    await load_kubeconfig(running.kubeconfig())
    await _read_with_library(running)
    before = _found(sinks, running.secret)
    logger.filters, filters = [], logger.filters
    await _read_with_library(running)
    logger.filters = filters

    assert before == set()
    assert _found(sinks, running.secret) == {"log records of kubernetes_asyncio", "log records of root"}


async def test_the_librarys_objects_show_the_secret(sinks: Sinks, running: Cluster) -> None:
    """A `V1Secret` shows its data when it is printed."""
    secret = await _read_with_library(running)

    sinks.hear("print", pprint.pformat(secret))
    sinks.hear("repr", repr(secret))

    assert _found(sinks, running.secret) == {"print", "repr"}


def _decoded(body: bytes) -> object:
    return (b"\xff" + body).decode()


def _as_json(body: bytes) -> object:
    return json.loads(body)


def _as_number(body: bytes) -> object:
    return int(body)


def _as_key(body: bytes) -> object:
    known: dict[bytes, object] = {}
    return known[body]


def _chained(body: bytes) -> object:
    try:
        return _as_json(body)
    except ValueError as error:
        raise SecretUnavailable from error


def _in_passing(body: bytes) -> object:
    try:
        return _as_json(body)
    except ValueError:
        raise SecretUnavailable  # noqa: B904 - this is the mistake


def _hidden(body: bytes) -> object:
    try:
        return _as_json(body)
    except ValueError:
        raise SecretUnavailable from None


def _local(body: bytes) -> object:
    kept = bytearray(body)
    if kept:
        raise SecretUnavailable
    return kept


def _noted(body: bytes) -> object:
    error = RuntimeError("failed")
    error.add_note(f"while reading {body!r}")
    raise error


def _grouped(body: bytes) -> object:
    raise ExceptionGroup("several", [ValueError("harmless"), KeyError(body)])


Careless = Callable[[bytes], object]

ATTRIBUTES = "attributes of the exception"


CARELESS: dict[str, tuple[Careless, set[str]]] = {
    "decoding bytes": (_decoded, {ATTRIBUTES}),
    "json.loads": (_as_json, {ATTRIBUTES}),
    "int()": (_as_number, {ATTRIBUTES, "traceback"}),
    "a missing key": (_as_key, {ATTRIBUTES, "traceback"}),
    "raise from": (_chained, {ATTRIBUTES}),
    "raise in an except block": (_in_passing, {ATTRIBUTES}),
    "raise from None": (_hidden, {ATTRIBUTES}),
    "a local": (_local, set()),
    "a note": (_noted, {ATTRIBUTES, "traceback"}),
    "a group": (_grouped, {ATTRIBUTES, "traceback"}),
}


@pytest.mark.parametrize(("careless", "beside_locals"), CARELESS.values(), ids=CARELESS)
def test_careless_code_is_caught(sinks: Sinks, careless: Careless, beside_locals: set[str]) -> None:
    """The search finds a provider function that fails with the secret in its locals."""
    canary = Canary.secret()

    with pytest.raises(Exception) as failure:  # noqa: PT011 - each fails in its own way
        careless(canary.reveal_bytes())
    sinks.hear_error("careless", failure.value)

    found = {line.split(": ")[1] for line in sinks.findings(Search(canary))}
    assert found == LOCALS | beside_locals


async def _fail(body: bytes) -> object:
    return body.decode()


async def test_an_unawaited_error_is_caught(listener: Listener, sinks: Sinks) -> None:
    """The event loop's handler gets the exception with the bytes that are not UTF-8."""
    canary = Canary.secret()

    await asyncio.wait([asyncio.create_task(_fail(b"\xff" + canary.reveal_bytes()))])
    listener.finish()

    assert "the event loop's exception handler" in _found(sinks, canary)


@pytest.mark.parametrize("tool", ["structlog", "rich", "pytest"])
def test_printed_locals_are_caught(sinks: Sinks, tool: str) -> None:
    """By those that print them, as they are usually set up."""
    canary, out = Canary.secret(), io.StringIO()
    try:
        _local(canary.reveal_bytes())
    except SecretUnavailable as error:
        if tool == "pytest":
            info: Any = pytest.ExceptionInfo  # its constructors are only partly typed
            out.write(str(info.from_exception(error).getrepr(showlocals=True)))
        elif tool == "structlog":
            renderer = structlog.processors.JSONRenderer()
            event: dict[str, Any] = {"event": "failed", "exc_info": error}
            out.write(str(renderer(None, "error", structlog.processors.dict_tracebacks(None, "error", event))))
        else:
            Console(file=out, width=200).print_exception(show_locals=True)

    sinks.hear(tool, out.getvalue())

    assert _found(sinks, canary) == {tool}


async def _printed(response: aiohttp.ClientResponse) -> str:
    return repr(response)


async def _raised(response: aiohttp.ClientResponse) -> str:
    try:
        response.raise_for_status()
    except aiohttp.ClientResponseError as error:
        return f"{error!s} {error!r} {error.request_info.headers!r}"
    raise AssertionError("there was no error")


@pytest.mark.parametrize("show", [_printed, _raised])
async def test_output_of_the_http_client_is_caught(
    sinks: Sinks, show: Callable[[aiohttp.ClientResponse], Awaitable[str]]
) -> None:
    """A printed response or error shows the URL's query and the sent headers."""
    query, signature = Canary.word("query"), Canary.secret("signature")
    async with Scripted([500]) as receiver, aiohttp.ClientSession() as session:
        headers = {"webhook-signature": f"v1,{signature.reveal().removeprefix('whsec_')}", "webhook-id": "a"}
        response = await session.post(f"{receiver.url}?token={query.reveal()}", headers=headers)
        sinks.hear("response", await show(response))
        response.release()

    expected = {"query"} if show is _printed else {"query", "signature"}
    found = sinks.findings(Search(query, signature))
    assert {line.split(": ")[1].partition(",")[0] for line in found} == expected


def test_a_struct_with_bytes_in_it_is_caught(sinks: Sinks) -> None:
    """A printed struct shows its data, so structs contain no keys."""
    canary = Canary.secret()
    kind = msgspec.defstruct("Careless", [("material", bytes)])

    sinks.hear("repr", repr(kind(canary.reveal_bytes())))
    sinks.hear("JSON", msgspec.json.encode(kind(canary.reveal_bytes())))

    assert _found(sinks, canary) == {"repr", "JSON"}
