"""Roles and tokens of the HTTP API. Only the SHA-256 of a token is stored."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from schemas.ids import NAME_PATTERN

ALL_TENANTS: Final = "*"


class Role(StrEnum):
    """The permission of a token."""

    PRODUCER = "producer"
    """Requests deliveries and reads them."""
    ADMIN = "admin"
    """Changes destinations and credentials."""
    OPERATOR = "operator"
    """Replays, enables, disables and tests; sees the exact problem of a Secret."""
    VIEWER = "viewer"
    """Reads everything and changes nothing."""


class Token(Struct, frozen=True, kw_only=True):
    """A stored token. Key: `<tenant>.<id>`, with `_all` for all tenants."""

    tenant: str
    roles: tuple[Role, ...]
    digest: Annotated[str, Meta(description="SHA-256 of the token, in hex.")]
    created_at: datetime
    created_by: str
    name: str = ""


class TokenSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tenant, roles and name of a new token."""

    tenant: Annotated[str, Meta(pattern=rf"(?:^\*$|{NAME_PATTERN})(?!\n)", description="A tenant, or `*` for all.")]
    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=4)]
    name: Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")] = ""


class TokenView(Struct, frozen=True, kw_only=True):
    """A token without its digest."""

    id: str
    tenant: str
    roles: tuple[Role, ...]
    name: str
    created_at: datetime
    created_by: str
    last_used_at: Annotated[datetime, Meta(description="Accurate to the minute.")] | None = None
