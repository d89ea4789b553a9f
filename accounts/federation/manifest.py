"""The kind of documents that sets up a provider for people.

kind: IdentityProvider
tenant: acme
slug: okta
name: Acme Okta
issuer: https://acme.okta.com
client_id: 0oa1b2c3
client_secret: {env: OKTA_SECRET}
roles: {narrowgate-admins: admin, everyone: viewer}
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from accounts.federation import actions
from accounts.federation.models import IdentityProvider, ProviderKind, ProviderPreset, RoleMapping
from controlplane.apply.kinds import HIDDEN, Applying, Change, Kind, SecretSource, TenantDocument, bring_about
from controlplane.authority import Role
from controlplane.keyring import open_sealed


class IdentityProviderFields(TenantDocument, frozen=True, kw_only=True):
    """A provider by tenant and slug. `roles` maps its groups to roles, and is taken whole."""

    slug: str
    name: str
    protocol: ProviderKind = ProviderKind.OIDC
    preset: ProviderPreset = ProviderPreset.OTHER
    is_active: bool = True
    issuer: str
    metadata_url: str = ""
    metadata: str = ""
    client_id: str = ""
    client_secret: SecretSource | None = None
    scopes: str = "openid email profile"
    email_claim: str = "email"
    groups_claim: str = "groups"
    email_domains: list[str] = []
    wants_signed_response: bool = False
    allows_unasked: bool = False
    roles: dict[str, Role] = {}


_VALUES: Final = (
    "slug", "name", "is_active", "issuer", "metadata_url", "metadata", "client_id", "scopes", "email_claim",
    "groups_claim", "email_domains", "wants_signed_response", "allows_unasked",
)  # fmt: skip


class IdentityProviderKind:
    """Providers with their role mappings."""

    name: Final = "IdentityProvider"
    rank: Final = 15
    document: Final = IdentityProviderFields

    def apply(self, wanted: IdentityProviderFields, *, applying: Applying) -> Change | None:
        """By slug within the tenant; groups that aren't in the document give no role any more."""
        provider = IdentityProvider.objects.filter(slug=wanted.slug).first()
        kept = [] if provider is None else RoleMapping.objects.filter(provider=provider)
        roles_before = sorted(f"{row.group} → {row.role}" for row in kept)
        roles_after = sorted(f"{group} → {role.value}" for group, role in wanted.roles.items())
        secret = _changed_secret(provider, wanted, applying)
        mappings = [actions.MappingSpec(group, role.value) for group, role in wanted.roles.items()]
        save = partial(actions.save_provider, acting_user=None, secret=secret, mappings=mappings)
        values = {name: getattr(wanted, name) for name in _VALUES}
        values |= {"kind": wanted.protocol.value, "preset": wanted.preset.value}
        change = bring_about(provider, lambda: IdentityProvider(tenant=applying.tenant), values=values, save=save)
        told: dict[str, tuple[Any, Any]] = {}
        if roles_before != roles_after:
            told["roles"] = (roles_before, roles_after)
        if secret is not None:
            told["client_secret"] = (None, HIDDEN)
        if not told:
            return change
        if provider is not None and change is None:
            save(provider)
        fields = {**change.fields, **told} if change else told
        return Change(verb="create" if provider is None else "change", name=wanted.slug, fields=fields)


def _changed_secret(
    provider: IdentityProvider | None, wanted: IdentityProviderFields, applying: Applying
) -> str | None:
    """The secret, when it isn't the one that is kept."""
    if wanted.client_secret is None:
        return None
    secret = applying.secret(wanted.client_secret, field="client_secret")
    if provider is None:
        return secret
    return None if open_sealed(provider.sealed_secret, context=provider.secret_context) == secret.encode() else secret


KINDS: Final[tuple[Kind, ...]] = (IdentityProviderKind(),)
