"""The reference of result codes, `docs/reference/result-codes.md`: every outcome, code and credential status."""

from collections.abc import Mapping
from typing import Final

from schemas.codes import Code, CredentialStatus, Outcome

_HEAD: Final = """\
# Result codes

Every attempt ends with one outcome and one code. `oneprotect attempts`, the API, the console, the
`oneprotect_attempts_total` metric and the attempt events use these values.
Filter with `--code`, for example `oneprotect attempts --tenant acme --code http.5xx --since 1h`.

This page is generated: `make generate`.

"""

_OUTCOMES: Final = {
    Outcome.DELIVERED: "The receiver answered 2xx. The delivery is kept in the archive and can be replayed.",
    Outcome.RETRY_SCHEDULED: "The attempt failed or waits for its secret. The server has the next attempt scheduled.",
    Outcome.FAILED: "The consumer gave up. The delivery is kept with its payload and can be replayed.",
    Outcome.SKIPPED: "The destination is disabled. The delivery is kept with its payload and can be replayed.",
    Outcome.SUPPRESSED: "NATS redelivered a request whose result was recorded already. Nothing was sent.",
}

_RETRIES: Final = "Retries by schedule."
_WAITS: Final = "Waits for the secret, at most 3 days. Uses no attempt."
_FAILS: Final = "Fails at once."

_CODES: Final[Mapping[Code, tuple[str, str, str]]] = {
    Code.HTTP_2XX: ("The receiver accepted the delivery.", "Delivered.", "Nothing."),
    Code.HTTP_3XX: (
        "The receiver redirected. Redirects are never followed.",
        _RETRIES,
        "Set the destination's `url` to the redirect's target.",
    ),
    Code.HTTP_4XX: (
        "The receiver rejected the request.",
        _RETRIES,
        "Ask the receiver why. For 401 or 403 compare the signature with `oneprotect verify`.",
    ),
    Code.HTTP_410: (
        "The receiver answered 410 Gone.",
        "Fails at once and disables the destination.",
        "Correct the `url`, enable the destination, replay.",
    ),
    Code.HTTP_429: (
        "The receiver limits the rate.",
        "Retries by schedule, not before `Retry-After`. The circuit breaker stays open until then.",
        "Set the destination's `rate_per_s`.",
    ),
    Code.HTTP_5XX: ("The receiver failed.", _RETRIES, "Ask the receiver. Replay what failed after the repair."),
    Code.NET_DNS: (
        "The host name does not resolve.",
        _RETRIES,
        "Check the name, and DNS from a consumer pod.",
    ),
    Code.NET_REFUSED: (
        "No address accepted the connection.",
        _RETRIES,
        "Check the port, firewalls and the consumers' NetworkPolicy.",
    ),
    Code.NET_RESET: (
        "The connection ended before a complete answer, or the answer was not HTTP.",
        _RETRIES,
        "Check the receiver and the proxies between.",
    ),
    Code.NET_TLS: (
        "TLS failed: certificate, name, protocol, or records beyond a limit.",
        _RETRIES,
        "Renew the certificate. For a private CA set `ONEPROTECT_EGRESS_CA_FILE`.",
    ),
    Code.NET_TIMEOUT: (
        "No answer within the destination's `timeout_s`.",
        "Retries by schedule, not before `ONEPROTECT_RETRY_AFTER_TIMEOUT_S`.",
        "Let the receiver answer at once and process the delivery afterwards, or raise `timeout_s` (at most 30).",
    ),
    Code.NET_BLOCKED: (
        "The egress policy forbids the address. Nothing was sent.",
        _FAILS,
        "If the receiver is yours, add its network to `ONEPROTECT_EGRESS_ALLOW_CIDRS`.",
    ),
    Code.NET_RESPONSE_TOO_LARGE: (
        "The head of the answer exceeds its limit.",
        _RETRIES,
        "Reduce the receiver's response headers.",
    ),
    Code.SECRET_REF_INVALID: (
        "The ref has a wrong format; expected `k8s://NAMESPACE/SECRET/KEY`.",
        _FAILS,
        "Set the credential again; replay.",
    ),
    Code.SECRET_REF_FORBIDDEN: (
        "The ref names a namespace that this installation may not read.",
        _FAILS,
        "Add the namespace to `ONEPROTECT_SECRET_NAMESPACES_ALLOWED`, or correct the ref; replay.",
    ),
    Code.SECRET_MISMATCH: (
        "The Secret's labels name another tenant or purpose, or none.",
        _WAITS,
        "Correct the labels `oneprotect.io/tenant` and `oneprotect.io/purpose`.",
    ),
    Code.SECRET_NOT_FOUND: (
        "The Secret or its key does not exist.",
        _WAITS,
        "Create the Secret. Waiting deliveries resume within a minute.",
    ),
    Code.SECRET_MALFORMED: (
        "The value is not a valid key.",
        _FAILS,
        "Store `whsec_` and base64 of 24 to 64 bytes, without a newline; replay.",
    ),
    Code.SECRET_DENIED: (
        "The API server refused to read the Secret.",
        _WAITS,
        "Add the Secret to the Role's `resourceNames`: `secrets.resourceNames` in the chart.",
    ),
    Code.SECRET_UNAVAILABLE: (
        "The provider did not answer, and no usable key is in memory.",
        _WAITS,
        "Check the API server and the consumers' NetworkPolicy.",
    ),
    Code.DESTINATION_NOT_FOUND: (
        "The destination does not exist.",
        _FAILS,
        "Create the destination, or correct the producer; replay.",
    ),
    Code.DESTINATION_DISABLED: (
        "The destination is disabled.",
        "Skipped.",
        "Enable the destination; replay.",
    ),
    Code.EVENT_INVALID: (
        "The message is not a valid request.",
        "Quarantined.",
        "Correct the producer. `oneprotect quarantine show` names the field.",
    ),
    Code.INTERNAL: (
        "The consumer failed in an unforeseen way.",
        "Retries by schedule. After the third crash the message is quarantined.",
        "Read `handler.crashed` in the log and report the error type.",
    ),
}

_STATUSES: Final = {
    CredentialStatus.CONFIGURED: ("The Secret is readable and its key can sign.", "Deliveries are signed."),
    CredentialStatus.MISSING: ("`secret.not_found`", "Deliveries wait."),
    CredentialStatus.MISMATCH: (
        "`secret.mismatch` or `secret.ref_forbidden`",
        "Deliveries wait; with a forbidden ref they fail.",
    ),
    CredentialStatus.MALFORMED: ("`secret.malformed` or `secret.ref_invalid`", "Deliveries fail."),
    CredentialStatus.DENIED: ("`secret.denied`", "Deliveries wait."),
    CredentialStatus.UNAVAILABLE: (
        "`secret.unavailable`, and no consumer has read the Secret before",
        "Deliveries wait.",
    ),
    CredentialStatus.UNCHECKED: ("No consumer has checked the credential yet.", "Deliveries read the Secret first."),
}

_PUBLIC: Final = """
## What a tenant sees

The reason why a Secret cannot be read would reveal which Secrets exist. Only tokens with the role
`operator` see it. All others see the public form, in lists, filters and dry runs alike:

| internal | public |
|---|---|
"""


def page() -> str:
    """Return the page, in Markdown. Raises `KeyError` for a code without a description."""
    outcomes = [f"| `{outcome}` | {_OUTCOMES[outcome]} |" for outcome in Outcome]
    codes = [f"| `{code}` | {' | '.join(_CODES[code])} |" for code in Code]
    statuses = [f"| `{status}` | {' | '.join(_STATUSES[status])} |" for status in CredentialStatus]
    return (
        _HEAD
        + _table("Outcomes", ("outcome", "meaning"), outcomes)
        + _table("Codes", ("code", "meaning", "effect", "what to do"), codes)
        + "A failed or skipped delivery is kept. `oneprotect replay` sends it again with its id.\n\n"
        + _table("Credential statuses", ("status", "found", "effect"), statuses).rstrip("\n")
        + "\n"
        + _PUBLIC
        + "".join(_hidden(Code) + _hidden(CredentialStatus))
    )


def _table(title: str, head: tuple[str, ...], rows: list[str]) -> str:
    lines = (f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows)
    return "\n".join(lines) + "\n\n"


def _hidden(values: type[Code] | type[CredentialStatus]) -> list[str]:
    members: list[Code | CredentialStatus] = list(values)
    return [f"| `{one}` | `{_public(one)}` |\n" for one in members if _public(one) != one]


def _public(value: Code | CredentialStatus) -> Code | CredentialStatus:
    return value.public
