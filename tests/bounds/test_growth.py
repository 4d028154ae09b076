"""Hostile input of twice the size may take at most twice the time, up to the bound of the input.

Counters of instructions are not available everywhere. So this measures the CPU time of the process, the least of
several runs, over two doublings: linear functions take four times as long, and quadratic ones sixteen times.
"""

import asyncio
import base64
import gc
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request

from consumers.delivery.attempt import _host  # pyright: ignore[reportPrivateUsage]
from consumers.delivery.response_redaction import (
    credential_candidates_in_header,
    credential_candidates_in_url,
    redact_response,
    values_of_destination,
)
from consumers.dns import message as dns
from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import _header_lines  # pyright: ignore[reportPrivateUsage]
from consumers.http_client.response import retry_after_s
from consumers.model.request import RetryState, _decode, _decode_plain  # pyright: ignore[reportPrivateUsage]
from messaging.client.headers import encode_headers_unchecked, read_headers
from oneprotect.api.auth.jwt import JwtVerifier
from oneprotect.api.auth.token_format import parse_token_id
from oneprotect.api.nats_service.cloud_events import read_delivery
from oneprotect.api.operations.delivery_intake import NewDelivery
from oneprotect.api.operations.preconditions import read_precondition
from oneprotect.api.resources.replays import NewReplay
from oneprotect.api.web.pagination import StreamPosition, decode_cursor
from oneprotect.api.web.request_body import decode, decode_query
from oneprotect.configuration.masking import mask, unmask
from oneprotect.console.web.cookies import read_cookie
from oneprotect.console.web.forms import parse_fields, parse_time_range, require_same_origin
from provider.fragments import decode_escapes, fragments_of
from provider.secret_manifest import read_manifest
from provider.secret_ref import SecretRef
from provider.signing_keys import HmacKey
from schemas import ids, validation
from schemas.configuration import DestinationSpec
from schemas.events import decode_request, now
from schemas.headers import portable_headers, read_trace
from telemetry.bounded_http import _HOST  # pyright: ignore[reportPrivateUsage]
from telemetry.redaction import scrub

KIB = 1024
BUDGET_S = 0.005
"""Less is no matter for an event loop, and too little to measure."""
MAX_RATIO = 7
ROUNDS = 12

pytestmark = pytest.mark.serial


class Case(msgspec.Struct, frozen=True):
    """Functions of a module that parse a text; `texts` are repeated up to `bound` characters."""

    module: str
    bound: int
    functions: tuple[Callable[[str], object], ...]
    texts: tuple[str, ...] = ()
    """Each is `start|repeated|end`."""


TEXTS = (
    "|a|", "|a|!", "|1|", "|1|!", "|0|x", "| |x", "|\\|", '|\\"|', "|&amp;|", "|&|", "|%25|", "|%|", "|-|",
    "|.|", "|a.|!", "|a-|!", "|:|", "|[|", "|]|", "|(|", "|,|", "|;|", "|;=|", "|a=b;|", "|\n|", "|\r\n|",
    "|a\n|", "|ab |", "|1,|", "|*/*,|", "|-eyJ|", "|eyJ.|", "|bearer |", "|whsec_|", "|İ|", "|。|", "|xn--a.|",
    "|é|", "|\ud800|", '|"a",|', "|==|", "|\\u0061|", "|&#1|", "|&#x26;|", "a|\t|b", "|/|", "|@|", "|?a|",
    "|+|", "|_|",
)  # fmt: skip
JSON_TEXTS = (
    "|[|", '|{"a":|', "|[[],|", '{"event_type":"a","payload":|[|', '{"id":|1|}', '{"id":"|a|"}',
    '{"id":"|\\u0061|"}', '{|"a":1,|"b":2}', '{|"a|":1}', '{"payload":{"a":|1|}}', '{"payload":1e|9|}',
    '{"id":-|0|}', "| |{}", '{"id":"|\\|"}', '{"data":{"payload":|[0,|', '{"filter":{"ids":[|"a",|"a"]}}',
    '{"time":"|2|"}', '{"tenant":"|a-|"}', '{"specversion":"1.0","data":{|"a":{},|"a":1}}',
    '{"type":"|\ud800|"}',
)  # fmt: skip


def tokens(text: str) -> object:
    """Verify a JWT whose header is `text`, and one that is `text`."""
    keys = cast("Any", SimpleNamespace(find=_no_key))
    verifier = JwtVerifier(keys, issuer="i", audience="a", algorithms=("RS256",), tenant_claim="t", roles_claim="r")
    encoded = base64.urlsafe_b64encode(text.encode(errors="replace")).decode().rstrip("=")
    for token in (text, f"{encoded}.e30.AA", f"e30.{encoded}.AA"):
        asyncio.run(verifier.verify(token[: 8 * KIB]))
    return None


async def _no_key(_: object) -> None:
    return None


def request(name: str, value: str) -> Request:
    """A request with one header."""
    raw = value.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
    return Request({"type": "http", "method": "POST", "headers": [(name.encode(), raw)]})


def form(text: str) -> object:
    """Read the fields of a form."""
    return parse_fields(text.encode(errors="replace"))


def manifest(text: str) -> object:
    """Read a Secret whose key or annotation is `text`."""
    data = base64.b64encode(text.encode(errors="replace")).decode()
    meta = {"name": "s", "namespace": "n", "annotations": {"oneprotect.io/previous-expires-at": text}}
    ref = SecretRef.parse("k8s://n/s/key")
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"key": data}}
    return read_manifest(msgspec.json.encode(document), ref, uid="u", resource_version="1")


def dns_answer(text: str) -> object:
    """Decode an answer whose records lead through as many pointers as fit."""
    query = dns.encode_query(1, "a.example", dns.A)
    start = len(query)
    room = max(len(text) - 16 * dns.MAX_RECORDS - 64, 64)
    chain = b"\0\0" + b"".join((0xC000 | start + 9 + at).to_bytes(2, "big") for at in range(2, room, 2))
    first = b"\0" + (16).to_bytes(2, "big") + b"\0\1\0\0\0\0" + len(chain).to_bytes(2, "big") + chain
    last = (0xC000 | min(start + 9 + len(chain), 0x3FFF)).to_bytes(2, "big")
    records = (last + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4") * (dns.MAX_RECORDS - 1)
    head = b"\0\1\x81\x80\0\1" + dns.MAX_RECORDS.to_bytes(2, "big") + b"\0\0\0\0"
    return dns.decode_answer(head + query[12:] + first + records, query)


def destination(text: str) -> object:
    """Convert, mask and unmask a destination with `text` everywhere."""
    fields = {"url": f"https://a.com/{text}", "credential": text, "headers": {text: text}, "event_types": [text] * 9}
    with_rules: list[object] = []
    for one in (fields, {"url": f"https://a.com/?{text}"[:2048], "credential": "c", "headers": {"x": text[:1024]}}):
        try:
            spec = validation.convert(one, DestinationSpec)
            with_rules.append(unmask(mask(spec), spec))
        except ValueError:
            pass
    return with_rules


def headers(text: str) -> dict[str, str]:
    """As many headers as the text allows, each long or short."""
    return {f"{name}{at}": text[at : at + 9] for at in range(0, len(text), 9) for name in ("X-", "Traceparent")} | {
        "traceparent": text, "content-type": text, "Oneprotect-Attempt": text, "Oneprotect-First-Attempt-At": text
    }  # fmt: skip


REDACT_FRAGMENTS = fragments_of(b"Zq8vT2mW5xY9bN4kR7pL1cJ6" * 3)
URL = "https://example.com/" + "a" * 900 + "?x=" + "a" * 900
SHORT = [f"a{number:03x}" for number in range(290)]
KNOWN = [*credential_candidates_in_url(URL), *credential_candidates_in_header("a" * 1000 + " " + "b" * 1000)]

CASES = (
    Case("schemas/events.py", 1024 * KIB, (lambda text: decode_request(text.encode(errors="replace")),), JSON_TEXTS),
    Case("schemas/headers.py", 64 * KIB, (lambda text: portable_headers(headers(text)), read_trace)),
    Case("schemas/ids.py", 1024 * KIB, (ids.is_name, ids.is_delivery_id, ids.is_event_type, ids.time_of)),
    Case(
        "schemas/validation.py",
        405 * KIB,
        (lambda text: validation.convert({"url": text, text: 1}, DestinationSpec), destination),
    ),
    Case("provider/fragments.py", 4 * KIB, (decode_escapes, lambda text: fragments_of(text.encode(errors="replace")))),
    Case("provider/secret_manifest.py", 1024 * KIB, (manifest,)),
    Case("provider/secret_ref.py", 512, (SecretRef.parse, lambda text: SecretRef.parse(f"k8s://{text}/{text}/{text}"))),
    Case(
        "provider/signing_keys.py",
        1024 * KIB,
        (
            lambda text: HmacKey(text.encode(errors="replace")),
            lambda text: HmacKey(b"whsec_" + text.encode("utf-8", "replace")),
        ),
    ),
    Case(
        "messaging/client/headers.py",
        64 * KIB,
        (
            lambda text: read_headers(b"NATS/1.0\r\n" + text.encode(errors="replace")),
            lambda text: encode_headers_unchecked(headers(text)),
            lambda text: encode_headers_unchecked({"a": text}),
        ),
    ),
    Case(
        "telemetry/bounded_http.py",
        32 * KIB,
        (lambda text: _HOST.fullmatch(text.encode(errors="replace")),),
    ),
    Case("telemetry/redaction.py", 64 * KIB, (scrub,)),
    Case("consumers/delivery/attempt.py", 2 * KIB, (lambda text: _host(f"https://{text}"), _host)),
    Case(
        "consumers/delivery/response_redaction.py",
        3 * KIB,
        (
            lambda text: redact_response(text.encode(errors="replace"), known=KNOWN, fragments=REDACT_FRAGMENTS),
            lambda text: redact_response((text[::2] + "\n" * (len(text) // 2)).encode(errors="replace"), known=KNOWN),
            lambda text: redact_response(text.encode(errors="replace"), known=SHORT),
            lambda text: values_of_destination(f"https://a.com/{text}?{text}"[:2048], (text[:1024], text[1024:])),
            lambda text: list(credential_candidates_in_url(f"https://a.com/{text}?{text}")),
            lambda text: list(credential_candidates_in_header(text)),
        ),
    ),
    Case("consumers/dns/message.py", 16 * KIB, (dns_answer,), ("|a|",)),
    Case(
        "consumers/egress/policy.py",
        2000,
        (
            lambda text: EgressPolicy().check_url(f"https://{text}/"),
            EgressPolicy().check_url,
            EgressPolicy().is_allowed,
        ),
    ),
    Case(
        "consumers/http_client/client.py",
        4 * KIB,
        (lambda text: _header_lines(headers(text)), lambda text: _header_lines({"x": text})),
    ),
    Case(
        "consumers/http_client/response.py",
        8190,
        (lambda text: retry_after_s(text, now()), lambda text: retry_after_s(f"1 Jan 2026 {text}", now())),
    ),
    Case(
        "consumers/model/request.py",
        1024 * KIB,
        (
            lambda text: _decode_plain(text.encode(errors="replace")),
            lambda text: _decode(text.encode(errors="replace")),
            lambda text: RetryState.from_headers({"Oneprotect-Attempt": text}),
            lambda text: RetryState.from_headers({"Oneprotect-First-Attempt-At": text}),
        ),
        (*JSON_TEXTS, *TEXTS),
    ),
    Case("oneprotect/api/auth/jwt.py", 8 * KIB, (tokens,), (*JSON_TEXTS, *TEXTS)),
    Case("oneprotect/api/auth/token_format.py", 32 * KIB, (parse_token_id,)),
    Case(
        "oneprotect/api/nats_service/cloud_events.py",
        1024 * KIB,
        (
            lambda text: read_delivery("acme", text.encode(errors="replace"), {}),
            lambda text: read_delivery(
                "acme", b"1", {"ce-specversion": "1.0", "ce-id": text, "ce-source": text, "ce-type": text}
            ),
        ),
        JSON_TEXTS,
    ),
    Case(
        "oneprotect/api/operations/preconditions.py",
        1024,
        (lambda text: read_precondition(cast("Any", SimpleNamespace(header={"if-match": text}.get))),),
    ),
    Case(
        "oneprotect/api/web/pagination.py",
        512,
        (
            lambda text: decode_cursor(text, StreamPosition),
            lambda text: decode_cursor(
                base64.urlsafe_b64encode(text.encode(errors="replace")).decode(), StreamPosition
            ),
        ),
        (*JSON_TEXTS, *TEXTS),
    ),
    Case(
        "oneprotect/api/web/request_body.py",
        405 * KIB,
        (
            lambda text: decode(text.encode(errors="replace"), NewDelivery),
            lambda text: decode(text.encode(errors="replace"), NewReplay),
            lambda text: decode(text.encode(errors="replace"), DestinationSpec),
            lambda text: decode_query(
                [("ids", text[at : at + 3]) for at in range(0, min(len(text), 32 * KIB), 3)], NewReplay
            ),
        ),
        JSON_TEXTS,
    ),
    Case("oneprotect/configuration/masking.py", 2 * KIB, (destination,)),
    Case("oneprotect/configuration/service.py", 2 * KIB, (destination,)),
    Case(
        "oneprotect/console/web/cookies.py",
        32 * KIB,
        (lambda text: read_cookie(request("cookie", f'a="{text}"'), "b"),),
    ),
    Case(
        "oneprotect/console/web/forms.py",
        405 * KIB,
        (form, lambda text: parse_time_range(text, None), lambda text: require_same_origin(request("origin", text))),
    ),
)


def inputs(case: Case) -> Iterator[tuple[Callable[[str], object], str, str, str]]:
    """Yield each function with each start, repeated part and end."""
    for function in case.functions:
        for text in case.texts or TEXTS:
            start, repeated, end = text.split("|")
            yield function, start, repeated, end


def time_of(function: Callable[[str], object], text: str) -> float:
    """Return the CPU time of a call, whatever it returns or raises."""
    gc.disable()
    begun = time.process_time_ns()
    try:
        function(text)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001, S110 - a refusal is as good as a result
        pass
    finally:
        gc.enable()
    return (time.process_time_ns() - begun) / 1e9


def grows_too_fast(function: Callable[[str], object], quarter: str, whole: str) -> str | None:
    """Return the times of input of a quarter of the bound and of the bound, if the second is too long."""
    shorter = longer = 1e9
    for _ in range(ROUNDS):
        longer = min(longer, time_of(function, whole))
        if longer < BUDGET_S:
            return None
        shorter = min(shorter, time_of(function, quarter))
        if longer < MAX_RATIO * shorter:
            return None
    return f"{shorter * 1000:.1f} ms, {longer * 1000:.1f} ms"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.module)
def test_twice_the_input_takes_at_most_twice_the_time(case: Case) -> None:
    """Up to the bound, for every kind of hostile text."""
    too_fast: list[object] = []
    for function, start, repeated, end in inputs(case):
        room = case.bound - len(start) - len(end)
        quarter, whole = (start + repeated * (size // len(repeated)) + end for size in (room // 4, room))
        if times := grows_too_fast(function, quarter, whole):
            too_fast.append((repeated, function, times))

    assert too_fast == []


def test_the_measurement_finds_quadratic_time() -> None:
    """It must be able to fail."""
    assert grows_too_fast(lambda text: [text.count(letter) for letter in text], "ab" * 1000, "ab" * 4000)
    assert not grows_too_fast(lambda text: [letter * 2 for letter in text], "ab" * 50_000, "ab" * 200_000)
