"""The authenticated caller."""

from collections.abc import Set as AbstractSet

import msgspec

from schemas.roles import ALL_TENANTS, Role


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller. `id` is in the audit trail: `token:<id>` or `oidc:<subject>`."""

    tenant: str
    roles: frozenset[Role]
    id: str
    name: str = ""

    @property
    def is_operator(self) -> bool:
        """True if the caller may see the exact state of Secrets."""
        return Role.OPERATOR in self.roles

    def is_of(self, tenant: str) -> bool:
        """Return true if the caller belongs to the tenant."""
        return self.tenant in (tenant, ALL_TENANTS)

    def has_any(self, roles: AbstractSet[Role]) -> bool:
        """Return true if the caller has one of the roles."""
        return not self.roles.isdisjoint(roles)
