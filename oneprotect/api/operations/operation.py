"""Operations of the API. The routes and the OpenAPI document are both made from them, so they cannot differ."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from oneprotect.api.operations.request import ApiRequest
from schemas.roles import Role

Method = Literal["GET", "PUT", "POST", "DELETE"]
JSON: Final = "application/json"

ANYONE: Final = frozenset[Role]()
READERS: Final = frozenset({Role.VIEWER, Role.ADMIN, Role.OPERATOR})
PRODUCERS: Final = frozenset({Role.PRODUCER})
ADMINS: Final = frozenset({Role.ADMIN})
MANAGERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})


class ApiResponse(Struct, frozen=True, kw_only=True):
    """The response of an operation. `body` is bytes, or a value that is sent as JSON."""

    status: int = 200
    body: object = None
    media_type: str = JSON
    headers: Mapping[str, str] = {}

    def encoded(self) -> bytes:
        """Return the body as bytes."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


Handler = Callable[[ApiRequest], Awaitable[ApiResponse]]


class ResponseDoc(Struct, frozen=True):
    """The documentation of one successful response."""

    description: str
    body: Any = None
    example: Any = None
    headers: Mapping[str, str] = {}
    media_type: str = JSON


class ApiOperation(Struct, frozen=True, kw_only=True):
    """A method of a path. Without `roles`, no token is needed."""

    method: Method
    path: str
    name: str
    summary: str
    description: str
    tag: str
    handle: Handler
    responses: Mapping[int, ResponseDoc]
    roles: frozenset[Role]
    body: type[Struct] | None
    body_required: bool
    body_example: Any
    query: type[Struct] | None
    headers: Mapping[str, str]
    """Request headers besides `Authorization`, with their descriptions."""
    problems: tuple[int, ...]
    """Statuses of problems besides those that every operation of its kind may respond with."""
    reads_many: bool
    """True for lists and searches, which take turns."""


class OperationGroup:
    """The operations of one tag, in the order of the document."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._operations: list[ApiOperation] = []

    def __iter__(self) -> Iterator[ApiOperation]:
        return iter(self._operations)

    def add(
        self,
        method: Method,
        path: str,
        responses: Mapping[int, ResponseDoc],
        *,
        roles: frozenset[Role] = ANYONE,
        body: type[Struct] | None = None,
        body_required: bool = True,
        body_example: Any = None,  # noqa: ANN401 - any JSON
        query: type[Struct] | None = None,
        headers: Mapping[str, str] = {},
        problems: tuple[int, ...] = (),
        name: str = "",
        reads_many: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Return a decorator that adds its function as the handler of an operation.

        The function's name in camel case is the operation id, unless `name` is given. The first line of its docstring
        is the summary, and the rest is the description.
        """

        def decorate(handle: Handler) -> Handler:
            first, *rest = inspect.cleandoc(handle.__doc__ or "").split("\n\n")
            operation = ApiOperation(
                method=method,
                path=path,
                name=name or _camel_case(handle.__name__),
                summary=first.rstrip("."),
                description="\n\n".join(" ".join(paragraph.split()) for paragraph in rest),
                tag=self._tag,
                handle=handle,
                responses=responses,
                roles=roles,
                body=body,
                body_required=body_required,
                body_example=body_example,
                query=query,
                headers=headers,
                problems=problems,
                reads_many=reads_many,
            )
            self._operations.append(operation)
            return handle

        return decorate


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
