"""What changes providers, and what follows when one vouches for a person. `acting_user` None is the system."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django_scopes import scope

from accounts.access import departed_people
from accounts.actions import delete_membership, revoke_api_token, save_membership, save_user
from accounts.errors import SignInRefused
from accounts.federation.keys import make_saml_key
from accounts.federation.metadata import read_oidc, read_saml
from accounts.federation.models import FederatedIdentity, IdentityProvider, RoleMapping
from accounts.federation.persons import Person, role_for
from accounts.jwks import BadDocument, is_fetchable
from accounts.models import ApiToken, Membership, User
from accounts.signin.models import SignIn
from controlplane.authority import Role
from controlplane.keyring import seal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import delete_recorded, save_recorded

_FIELDS: Final = (
    "slug", "name", "kind", "preset", "is_active", "issuer", "metadata_url", "metadata", "client_id", "scopes",
    "email_claim", "groups_claim", "email_domains", "wants_signed_response", "allows_unasked",
)  # fmt: skip
#: Issuers that vouch for everybody in the world: theirs are told apart by domain.
SHARED_ISSUERS: Final = frozenset({"https://accounts.google.com"})


@dataclass(frozen=True, slots=True, order=True)
class MappingSpec:
    """A role mapping as it is wanted."""

    group: str
    role: str


@transaction.atomic
def save_provider(
    provider: IdentityProvider,
    *,
    acting_user: User | None,
    secret: str | None = None,
    mappings: Iterable[MappingSpec] | None = None,
) -> bool:
    """Create or change a provider; with its OIDC client secret, and all of its role mappings, when they are given.

    False when nothing differed. A SAML provider gets our key at its creation. Another issuer means other subjects: whom
    the old one vouched for is forgotten. Then, and when it is deactivated, its sign-ins end, and its people's REST
    tokens. Raises ValidationError, which names the field.
    """
    _check(provider, secret=secret)
    with scope(tenant=provider.tenant_id):
        is_new = provider._state.adding
        before = None if is_new else IdentityProvider.objects.select_for_update().get(pk=provider.pk)
        if before is not None and before.kind != provider.kind:
            raise ValidationError({"kind": "It can't be changed; make a new provider."})
        kept = {} if is_new else {MappingSpec(row.group, row.role): row for row in _mappings(provider)}
        wanted = set(kept) if mappings is None else set(mappings)
        if len({spec.group for spec in wanted}) != len(wanted):
            raise ValidationError({"role_mappings": "A group gives two roles. Keep one of them."})
        told: dict[str, object] = {}
        if secret:
            provider.sealed_secret = seal(secret.encode(), context=provider.secret_context)
            told["secret"] = True
        elif is_new and not provider.is_oidc:
            key, provider.certificate = make_saml_key(provider.slug)
            provider.sealed_secret = seal(key.encode(), context=provider.secret_context)
        if wanted != set(kept):
            told["role_mappings"] = [f"{spec.group} → {spec.role}" for spec in sorted(wanted)]
        changed = save_recorded(provider, acting_user=acting_user, noun="identity_provider", fields=_FIELDS, also=told)
        for spec in set(kept) - wanted:
            kept[spec].delete()
        for spec in sorted(wanted - set(kept)):
            row = RoleMapping(tenant_id=provider.tenant_id, provider=provider, group=spec.group, role=spec.role)
            row.full_clean()
            row.save()
        if before is not None and (before.issuer != provider.issuer or not provider.is_active):
            _end_access(provider, acting_user=acting_user)
        if before is not None and before.issuer != provider.issuer:
            FederatedIdentity.objects.filter(provider=provider).delete()
    return changed


def delete_provider(provider: IdentityProvider, *, acting_user: User | None) -> None:
    """Sign nobody in by it any more; the roles that it gave go with it, its sign-ins, and its people's REST tokens."""
    with transaction.atomic(), scope(tenant=provider.tenant_id):
        _end_access(provider, acting_user=acting_user)
        for membership in Membership.objects.filter(given_by=provider).select_related("user", "tenant"):
            delete_membership(membership, acting_user=acting_user)
        delete_recorded(provider, acting_user=acting_user, noun="identity_provider", fields=_FIELDS)


def admit(provider: IdentityProvider, person: Person, *, now: datetime) -> User:
    """The account of a person for whom the provider vouches, with the role that their groups give now.

    A person is known by the provider's subject; at the first sign-in, by address. Raises `SignInRefused`; whoever has
    no mapped group any more loses the role that the provider gave.
    """
    domain = person.email.rpartition("@")[2]
    if provider.email_domains and domain not in provider.email_domains:
        raise SignInRefused("address of another domain", fix="Your address is of a domain that isn't admitted here.")
    with scope(tenant=provider.tenant_id):
        mappings = {row.group: row.role for row in _mappings(provider)}
        role = role_for(person.groups, mappings)
        if role is None:
            _take_role(provider, person)
            fix = f"None of your groups has a role in {provider.tenant.name}. Ask one of its owners to give one a role."
            raise SignInRefused("no group with a role", fix=fix)
        with transaction.atomic():
            user = _find_or_make_user(provider, person)
            held = _give_role(provider, user, role)
            _note_identity(provider, person, user, now=now)
            append_entry(
                tenant=provider.tenant,
                kind="person.signed_in",
                acting_user=user,
                subject=f"user:{user}",
                before=None,
                after={"provider": provider.slug, "method": person.method.value, "role": held},
            )
    return user


# ---------------------------------------------------------------- details


def _check(provider: IdentityProvider, *, secret: str | None) -> None:
    wrong: dict[str, str] = {}
    if provider.metadata_url and not is_fetchable(provider.metadata_url):
        wrong["metadata_url"] = "Use an https URL without user name and fragment."
    if provider.issuer in SHARED_ISSUERS and not provider.email_domains:
        wrong["email_domains"] = "This issuer vouches for everybody; name the domains that are yours."
    if provider.is_oidc:
        if not is_fetchable(provider.issuer):
            wrong["issuer"] = "Use an https URL without user name and fragment."
        if not provider.client_id:
            wrong["client_id"] = "Enter the client ID that the provider has given."
        if "openid" not in provider.scopes.split():
            wrong["scopes"] = "Include openid."
        if not secret and not provider.sealed_secret:
            wrong["client_secret"] = "Enter the client secret that the provider has given."  # noqa: S105  # asks
    elif not provider.metadata and not provider.metadata_url:
        wrong["metadata_url"] = "Name the URL of the provider's metadata, or paste it."
    if not wrong and provider.metadata:
        try:
            (read_oidc if provider.is_oidc else read_saml)(provider)
        except BadDocument as error:
            wrong["metadata"] = f"It can't be used: {error}."
    if wrong:
        raise ValidationError(wrong)


def _end_access(provider: IdentityProvider, *, acting_user: User | None) -> None:
    """End the sign-ins by it, and the tokens of whomever it has let in: it may be why they have them."""
    SignIn.objects.filter(provider=provider, ended_at=None).update(ended_at=timezone.now())
    people = FederatedIdentity.objects.filter(provider=provider).values("user")
    for token in ApiToken.objects.filter(user__in=people, revoked_at=None, expires_at__gt=timezone.now()):
        revoke_api_token(token, acting_user=acting_user)


def _mappings(provider: IdentityProvider) -> list[RoleMapping]:
    return list(RoleMapping.objects.filter(provider=provider))


def _find_or_make_user(provider: IdentityProvider, person: Person) -> User:
    known = (
        FederatedIdentity.objects.select_for_update(of=("self",))
        .filter(provider=provider, subject=person.subject)
        .select_related("user")
        .first()
    )
    user = known.user if known else User.objects.filter(email=person.email).first()
    if user is None:
        return save_user(User(email=person.email, name=person.name), acting_user=None)
    if not user.is_active:
        raise SignInRefused("inactive user", fix="Your account here is switched off.")
    if departed_people().filter(user=user).exists():
        raise SignInRefused("departed", fix="Your organisation's directory says that you have left.")
    if user.is_superuser:
        raise SignInRefused("operator", fix="Operators sign in with their local account.")
    if known is None and FederatedIdentity.objects.filter(provider=provider, user=user).exists():
        raise SignInRefused(
            "address of another subject", fix="Your address belongs to another account of the identity provider."
        )
    return user


def _give_role(provider: IdentityProvider, user: User, role: Role) -> str:
    """A role that was given by hand stays; one that a provider gave follows the groups. Returns the role held."""
    membership = Membership.objects.filter(user=user).first()
    if membership is not None and membership.given_by_id is None:
        return membership.role
    membership = membership or Membership(tenant=provider.tenant, user=user)
    membership.role = role.value
    membership.given_by = provider
    save_membership(membership, acting_user=None)
    return membership.role


def _take_role(provider: IdentityProvider, person: Person) -> None:
    identity = FederatedIdentity.objects.filter(provider=provider, subject=person.subject).first()
    if identity is None:
        return
    with transaction.atomic():
        SignIn.objects.filter(user=identity.user_id, provider=provider, ended_at=None).update(ended_at=timezone.now())
        for membership in Membership.objects.filter(user=identity.user_id).exclude(given_by=None):
            delete_membership(membership, acting_user=None)


def _note_identity(provider: IdentityProvider, person: Person, user: User, *, now: datetime) -> None:
    FederatedIdentity.objects.update_or_create(
        provider=provider,
        subject=person.subject,
        defaults={"user": user, "groups": [*person.groups], "last_sign_in_at": now},
        create_defaults={
            "tenant": provider.tenant, "user": user, "groups": [*person.groups], "last_sign_in_at": now,
        },
    )  # fmt: skip
