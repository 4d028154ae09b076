"""Every error as a problem document (RFC 9457). Nothing of what was asked for is repeated, and no exception's text."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from consumers.replay.store import ReplayEnded, UnknownReplay
from messaging.client.errors import JetStreamError
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

_REFUSALS: Final[Mapping[type[Exception], tuple[int, str, str]]] = {
    NotFoundError: (404, "not-found", "The tenant has nothing of this name."),
    UnknownReplay: (404, "not-found", "The tenant has no replay of this id."),
    PreconditionFailedError: (
        412,
        "precondition-failed",
        "It is not as `If-Match` or `If-None-Match` says; read it anew.",
    ),
    WriteConflictError: (409, "conflict", "Somebody else changes the same right now; read it anew, and try again."),
}

_log = structlog.get_logger(__name__)


class BrokenRule(msgspec.Struct, frozen=True):
    """What is wrong with the input, and where: a field of the body, a parameter, or (None) the whole."""

    field: str | None
    rule: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). `type` is for programs, and stays as it is."""

    type: str
    title: str
    status: int
    detail: str | UnsetType = UNSET
    errors: tuple[BrokenRule, ...] | UnsetType = UNSET


class Problem(Exception):
    """Raised anywhere on the way of a request: the answer is this problem."""

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
        """As it is sent."""
        return ProblemDocument(
            type=f"urn:oneprotect:problem:{self.kind}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail or UNSET,
            errors=self.errors or UNSET,
        )

    def encode(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self.document())


def problem_of(error: Exception) -> Problem:
    """What an exception means to whoever asked."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return broken_rule(error.field, error.rule)
    if isinstance(error, JetStreamError):
        _log.warning("api.nats_failed", error=str(error))
        return unavailable()
    return _of_refusal(error) or _unexpected(error)


def _of_refusal(error: Exception) -> Problem | None:
    """What can't be done as things are."""
    for kind, (status, name, detail) in _REFUSALS.items():
        if isinstance(error, kind):
            return Problem(status, name, detail)
    if isinstance(error, MissingCredential):
        return broken_rule("credential", "the tenant has no credential of this name; create it first")
    if isinstance(error, InUseError):
        return Problem(409, "in-use", f"Destinations still use this credential: {', '.join(error.destinations)}.")
    if isinstance(error, ReplayEnded):
        return Problem(409, "replay-ended", f"This replay is {error.state} already.")
    return None


def _unexpected(error: Exception) -> Problem:
    _log.error("api.failed", exc_info=error)
    return Problem(500, "internal", "This should not have happened; the log says more.")


def broken_rule(field: str | None, rule: str) -> Problem:
    """The input breaks a rule."""
    where = f"`{field}`: " if field else ""
    return Problem(422, "invalid", f"{where}{rule}", errors=(BrokenRule(field, rule),))


def unavailable() -> Problem:
    """NATS can't be asked."""
    return Problem(
        503,
        "unavailable",
        "NATS does not answer right now; nothing that was not acknowledged is lost track of. Try again.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def problem_response(problem: Problem) -> Response:
    """Return the response that carries a problem document."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", **problem.headers}
    return Response(problem.encode(), problem.status, headers, MEDIA_TYPE)
