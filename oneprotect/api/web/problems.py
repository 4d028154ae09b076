"""Errors as problem documents (RFC 9457). No problem repeats the input or the text of an exception."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from consumers.replay.store import ReplayEnded, UnknownReplay
from messaging.client.errors import MESSAGE_TOO_LARGE, JetStreamError, RejectedByServer
from messaging.quota import QuotaExceeded
from oneprotect.configuration.errors import (
    InUseError,
    MissingCredential,
    NotFoundError,
    PreconditionFailedError,
    WriteConflictError,
)
from schemas.validation import ValidationError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
MAX_CAUSES: Final = 8

_REFUSALS: Final[Mapping[type[Exception], tuple[int, str, str]]] = {
    NotFoundError: (404, "not-found", "The tenant has no resource of this name. Check the name, or create it first."),
    UnknownReplay: (404, "not-found", "The tenant has no replay with this id. List the replays to find the id."),
    PreconditionFailedError: (
        412,
        "precondition-failed",
        "Precondition failed: the resource has changed since you read it. Fetch it again and retry.",
    ),
    WriteConflictError: (409, "conflict", "Another client is changing the resource. Fetch it again and retry."),
}

_log = structlog.get_logger(__name__)


class BrokenRule(msgspec.Struct, frozen=True):
    """A broken rule. `field` is a field of the body, a parameter, or null for the whole input."""

    field: str | None
    rule: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem (RFC 9457). `type` is for programs and never changes."""

    type: str
    title: str
    status: int
    detail: str | UnsetType = UNSET
    errors: tuple[BrokenRule, ...] | UnsetType = UNSET


class Problem(Exception):
    """An error that becomes the response to the request."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: tuple[BrokenRule, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind)
        self.status: Final = status
        self.kind: Final = kind
        self.detail: Final = detail
        self.errors: Final = errors
        self.headers: Final = dict(headers or {})

    def document(self) -> ProblemDocument:
        """Return the problem document."""
        return ProblemDocument(
            type=f"urn:oneprotect:problem:{self.kind}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail or UNSET,
            errors=self.errors or UNSET,
        )

    def encode(self) -> bytes:
        """Return the problem document as JSON."""
        return msgspec.json.encode(self.document())


def problem_of(error: Exception) -> Problem:
    """Return the problem for an exception; log unexpected ones. The exception has no traceback afterwards."""
    problem = _find_problem(error)
    # A frame that keeps its exception is a cycle, which holds the request's body until the next full collection.
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        cause = cause.with_traceback(None).__context__
    return problem


def _find_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return broken_rule(error.field, error.rule)
    if isinstance(error, RejectedByServer) and error.err_code == MESSAGE_TOO_LARGE:
        return Problem(413, "too-large", "NATS refuses a message of this size. Send less.")
    if isinstance(error, JetStreamError):
        _log.warning("api.nats_failed", error=str(error))
        return unavailable()
    if problem := _problem_of_refusal(error):
        return problem
    _log.error("api.failed", exc_info=error)
    return Problem(500, "internal", "Internal error. The log of the API has the details.")


def _problem_of_refusal(error: Exception) -> Problem | None:
    for kind, (status, name, detail) in _REFUSALS.items():
        if isinstance(error, kind):
            return Problem(status, name, detail)
    if isinstance(error, MissingCredential):
        return broken_rule("credential", "the tenant has no credential of this name; create it first")
    if isinstance(error, InUseError):
        names = ", ".join(error.destinations)
        return Problem(409, "in-use", f"Destinations use this credential: {names}. Assign them another one first.")
    if isinstance(error, QuotaExceeded):
        text = str(error)
        return Problem(409, "quota-exceeded", f"{text[:1].upper()}{text[1:]}.")
    if isinstance(error, ReplayEnded):
        return Problem(409, "replay-ended", f"This replay is already {error.state}.")
    return None


def broken_rule(field: str | None, rule: str) -> Problem:
    """Return the problem of a broken rule."""
    where = f"`{field}`: " if field else ""
    return Problem(422, "invalid", f"{where}{rule}", errors=(BrokenRule(field, rule),))


def too_many(reason: str, wait_s: int) -> Problem:
    """Return the problem of too many requests. `reason`: a sentence."""
    detail = f"{reason} Wait for the time in `Retry-After`, and send fewer at once."
    return Problem(429, "too-many-requests", detail, headers={"retry-after": str(wait_s)})


def unavailable() -> Problem:
    """Return the problem of an unavailable NATS."""
    detail = "NATS does not respond. Deliveries that were acknowledged are safe. Retry the request."
    return Problem(503, "unavailable", detail, headers={"retry-after": str(RETRY_AFTER_S)})


def problem_response(problem: Problem) -> Response:
    """Return the response that carries the problem document."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", **problem.headers}
    return Response(problem.encode(), problem.status, headers, MEDIA_TYPE)
