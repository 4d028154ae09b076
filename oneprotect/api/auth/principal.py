"""Who asks, and what for."""

from collections.abc import Set as AbstractSet

import msgspec

from schemas.roles import ALL_TENANTS, Role


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who was authenticated. `id` names them in the audit trail: `token:<id>`, or `oidc:<subject>`."""

    tenant: str
    roles: frozenset[Role]
    id: str
    name: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether they may know what exactly is wrong with a Secret."""
        return Role.OPERATOR in self.roles

    def is_of(self, tenant: str) -> bool:
        """Whether that tenant's affairs are theirs."""
        return self.tenant in (tenant, ALL_TENANTS)

    def has_any(self, roles: AbstractSet[Role]) -> bool:
        """Whether they have one of these roles."""
        return not self.roles.isdisjoint(roles)
