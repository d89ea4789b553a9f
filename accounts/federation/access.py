"""Which providers there are for somebody who isn't signed in yet: by a tenant's slug, or by an address's domain."""

from __future__ import annotations

from collections.abc import Sequence

from accounts.federation.models import IdentityProvider
from controlplane.tenancy import every_tenant

#: On one sign-in page.
MAX_PROVIDERS = 20


def find_provider(tenant_slug: str, provider_slug: str) -> IdentityProvider | None:
    """The active provider of an active tenant, by the names in its URLs. Needs no scope."""
    with every_tenant():
        found: IdentityProvider | None = (
            IdentityProvider.objects.filter(
                tenant__slug=tenant_slug, slug=provider_slug, is_active=True, tenant__is_active=True
            )
            .select_related("tenant")
            .first()
        )
    return found


def providers_for(who: str) -> Sequence[IdentityProvider]:
    """The providers of the tenant with this slug; of an address, those that vouch for its domain. Needs no scope."""
    local, at, domain = who.strip().lower().rpartition("@")
    if not domain or (at and not local):
        return []
    named = {"email_domains__contains": [domain]} if at else {"tenant__slug": domain}
    with every_tenant():
        rows = IdentityProvider.objects.filter(is_active=True, tenant__is_active=True, **named)
        return list(rows.select_related("tenant").order_by("tenant__slug", "name")[:MAX_PROVIDERS])
