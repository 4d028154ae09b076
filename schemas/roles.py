"""Who may do what over HTTP: roles, and tokens as they are kept. Of a token only its SHA-256 is kept."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from schemas.ids import NAME_PATTERN

ALL_TENANTS: Final = "*"


class Role(StrEnum):
    """What a token is for."""

    PRODUCER = "producer"
    """Asks for deliveries, and looks at them."""
    ADMIN = "admin"
    """Changes destinations and credentials."""
    OPERATOR = "operator"
    """Replays, enables, disables and tests; is told what exactly is wrong with a Secret."""
    VIEWER = "viewer"
    """Looks at everything, and changes nothing."""


class Token(Struct, frozen=True, kw_only=True):
    """A token as it is kept. Key: `<tenant>.<id>`, where `_all` stands for all tenants."""

    tenant: str
    roles: tuple[Role, ...]
    digest: Annotated[str, Meta(description="SHA-256 of the token, in hex.")]
    created_at: datetime
    created_by: str
    name: str = ""


class TokenSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new token is for."""

    tenant: Annotated[str, Meta(pattern=rf"(?:^\*$|{NAME_PATTERN})(?!\n)", description="A tenant, or `*` for all.")]
    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=4)]
    name: Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")] = ""


class TokenView(Struct, frozen=True, kw_only=True):
    """A token as it is shown: all about it but what would let somebody in."""

    id: str
    tenant: str
    roles: tuple[Role, ...]
    name: str
    created_at: datetime
    created_by: str
    last_used_at: Annotated[datetime, Meta(description="To the minute.")] | None = None
