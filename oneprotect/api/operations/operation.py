"""What the API can do, one value an operation: where it is, who may ask, what goes in, and what comes out.

The routes of the application and the OpenAPI document are both made from these, so neither can say what is not so.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from oneprotect.api.operations.request import ApiRequest
from schemas.roles import Role

Method = Literal["GET", "PUT", "POST", "DELETE"]
JSON: Final = "application/json"

NOBODY: Final = frozenset[Role]()
READERS: Final = frozenset({Role.VIEWER, Role.ADMIN, Role.OPERATOR})
PRODUCERS: Final = frozenset({Role.PRODUCER})
ADMINS: Final = frozenset({Role.ADMIN})
KEEPERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})


class ApiResponse(Struct, frozen=True, kw_only=True):
    """What is answered: a status, a value that becomes JSON (or bytes as they are), and headers."""

    status: int = 200
    body: object = None
    media_type: str = JSON
    headers: Mapping[str, str] = {}

    def encoded(self) -> bytes:
        """The body."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


class ResponseDoc(Struct, frozen=True, kw_only=True):
    """One of an operation's good answers, for the document."""

    what: str
    body: Any = None
    example: Any = None
    headers: Mapping[str, str] = {}
    media_type: str = JSON


class ApiOperation(Struct, frozen=True, kw_only=True):
    """One thing that can be asked for. With no `roles` nobody is asked who they are."""

    method: Method
    path: str
    name: str
    summary: str
    handle: Callable[[ApiRequest], Awaitable[ApiResponse]]
    says: Mapping[int, ResponseDoc]
    roles: frozenset[Role] = NOBODY
    tag: str = ""
    description: str = ""
    body: type[Struct] | None = None
    body_required: bool = True
    body_example: Any = None
    query: type[Struct] | None = None
    headers: Mapping[str, str] = {}
    """Request headers that mean something here, beside `Authorization`, and what they mean."""
    problems: tuple[int, ...] = ()
    """Statuses of problems beyond those that any operation of its kind may answer with."""
