"""What changes accounts, each with its ledger entry in the same transaction. `acting_user` None is the system."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django_scopes import scope

from accounts.models import (
    Agent,
    AgentToken,
    ApiToken,
    HashedToken,
    Membership,
    OidcTrust,
    ServiceToken,
    Tenant,
    TrustRule,
    User,
    ledgers_of,
)
from accounts.oauth.models import OAuthClient
from accounts.sources import made_from
from accounts.tokens import AGENT_PREFIX, API_PREFIX, NewToken, make_token
from accounts.trust_checks import check_anchors, check_trust
from controlplane.authority import Role
from controlplane.errors import Refusal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import delete_recorded, describe, save_recorded, subject_of
from controlplane.tenancy import every_tenant

MIN_TOKEN_LIFETIME: Final = timedelta(minutes=1)
DEFAULT_AGENT_TOKEN_LIFETIME: Final = timedelta(hours=1)
DEFAULT_API_TOKEN_LIFETIME: Final = timedelta(days=30)
MAX_API_TOKEN_LIFETIME: Final = timedelta(days=90)
#: `last_used_at` is for people: writing it at every use would make each connection a write.
USE_NOTED_EVERY: Final = timedelta(minutes=1)
#: A token that ended this long ago tells nobody anything; the ledger has its story.
FORGET_TOKENS_AFTER: Final = timedelta(days=30)

_TENANT_FIELDS: Final = ("slug", "name", "is_active", "requires_review")
_USER_FIELDS: Final = ("email", "name", "is_active", "is_superuser")
_MEMBERSHIP_FIELDS: Final = ("user", "role")
_AGENT_FIELDS: Final = ("name", "description", "sponsor", "groups", "is_active")
_TRUST_FIELDS: Final = (
    "name", "kind", "issuer", "audience", "jwks_url", "metadata_url", "metadata", "algorithms", "clock_skew_seconds",
    "person_claim", "groups_claim", "label_claims", "is_active",
)  # fmt: skip

#: All of a trust's rules are looked at for each token.
MAX_TRUST_RULES: Final = 200

HashedTokenT = TypeVar("HashedTokenT", bound=HashedToken)


# ---------------------------------------------------------------- tenants and people


def save_tenant(tenant: Tenant, *, acting_user: User | None) -> Tenant:
    """Create or change a tenant; told in the platform's ledger as well as in its own.

    Deactivated, its agents connect no more and its people see it no more.
    """
    save_recorded(
        tenant, acting_user=acting_user, noun="tenant", fields=_TENANT_FIELDS, tenant=tenant, is_platforms=True
    )
    return tenant


@transaction.atomic
def save_user(user: User, *, acting_user: User | None, password: str | None = None) -> User:
    """Create or change a person, with a new password if one is given.

    Told in the ledger of each of their tenants; of whoever has none, and of operators, in the platform's.
    Raises ValidationError, for a password that is too weak as well.
    """
    before = _user_state(User.objects.select_for_update().filter(pk=user.pk).first())
    if password is not None:
        _set_password(user, password)
    elif before is None:
        user.set_unusable_password()
    user.full_clean()
    user.save()
    after = {**(_user_state(user) or {}), **({"password": True} if password is not None else {})}
    if before != after:
        kind = "user.created" if before is None else "user.changed"
        for ledger in ledgers_of(user, is_operators=user.is_superuser or bool(before and before["is_superuser"])):
            append_entry(
                tenant=ledger, kind=kind, acting_user=acting_user, subject=f"user:{user}", before=before, after=after
            )
    return user


def appoint_owner(membership: Membership, *, acting_user: User) -> Membership:
    """By an operator, and told in the platform's ledger too: the first owner of a tenant, who gives all other roles.

    Raises `Refusal` when there is one.
    """
    with transaction.atomic(), scope(tenant=membership.tenant_id):
        Tenant.objects.select_for_update().get(pk=membership.tenant_id)  # of two operators, the second sees the first's
        if membership.role != Role.OWNER or Membership.objects.filter(role=Role.OWNER, user__is_active=True).exists():
            problem = f"an operator gives {membership.tenant} its first owner and no other role"
            raise Refusal(problem=problem, fix="Ask an owner of the tenant", field="role")
        save_recorded(
            membership, acting_user=acting_user, noun="membership", fields=_MEMBERSHIP_FIELDS, is_platforms=True
        )
        return membership


def save_membership(membership: Membership, *, acting_user: User | None) -> Membership:
    """Give a person a role in a tenant, or another one."""
    save_recorded(membership, acting_user=acting_user, noun="membership", fields=_MEMBERSHIP_FIELDS)
    return membership


def delete_membership(membership: Membership, *, acting_user: User | None) -> None:
    """Take a person's role in a tenant away, and with it their tokens for that tenant."""
    with transaction.atomic(), scope(tenant=membership.tenant_id):
        for token in ApiToken.objects.filter(user=membership.user_id, revoked_at=None):
            revoke_api_token(token, acting_user=acting_user)
        delete_recorded(membership, acting_user=acting_user, noun="membership", fields=_MEMBERSHIP_FIELDS)


# ---------------------------------------------------------------- agents and their tokens


def save_agent(agent: Agent, *, acting_user: User | None) -> Agent:
    """Create or change an agent. Deactivated, it connects no more and its sessions end."""
    agent.groups = sorted(set(agent.groups))
    if agent.sponsor_id is not None and agent.is_active:  # one whose sponsor has left can still be deactivated
        with scope(tenant=agent.tenant_id):
            if not Membership.objects.filter(user=agent.sponsor_id, user__is_active=True).exists():
                raise ValidationError({"sponsor": "Choose an active person with a role in this tenant."})
    save_recorded(agent, acting_user=acting_user, noun="agent", fields=_AGENT_FIELDS)
    return agent


@transaction.atomic
def issue_agent_token(
    agent: Agent, *, acting_user: User | None, lifetime: timedelta = DEFAULT_AGENT_TOKEN_LIFETIME, label: str = ""
) -> tuple[AgentToken, NewToken]:
    """A new token for an active agent. Its text is in the second value and nowhere else: show it now.

    Raises `Refusal` for an inactive agent, ValidationError for a lifetime out of bounds.
    """
    if not (agent.is_active and agent.tenant.is_active):
        raise Refusal(problem=f"agent {agent.name} is not active", fix="Activate it first", field="agent")
    longest = timedelta(seconds=settings.NARROWGATE.agent_token_max_seconds)
    made = make_token(AGENT_PREFIX)
    token = AgentToken(agent=agent, issued_by=acting_user)
    _keep_token(token, made, tenant=agent.tenant, lifetime=lifetime, longest=longest, label=label)
    _tell_token(token, noun="agent_token", verb="issued", acting_user=acting_user)
    return token, made


def revoke_agent_token(token: AgentToken, *, acting_user: User | None) -> AgentToken:
    """End a token now. Again does nothing."""
    return _revoke(token, noun="agent_token", acting_user=acting_user)


@transaction.atomic
def issue_api_token(
    user: User,
    *,
    tenant: Tenant,
    acting_user: User | None,
    lifetime: timedelta = DEFAULT_API_TOKEN_LIFETIME,
    label: str = "",
) -> tuple[ApiToken, NewToken]:
    """A new REST token of a person for one tenant, shown once like an agent's.

    Raises `Refusal` when the person has no role there, ValidationError for a lifetime out of bounds.
    """
    with scope(tenant=tenant):
        is_member = Membership.objects.filter(user=user).exists()
    if not (is_member and user.is_active):
        raise Refusal(problem=f"{user} has no role in {tenant}", fix="Give them one first", field="user")
    made = make_token(API_PREFIX)
    token = ApiToken(user=user)
    _keep_token(token, made, tenant=tenant, lifetime=lifetime, longest=MAX_API_TOKEN_LIFETIME, label=label)
    _tell_token(token, noun="api_token", verb="issued", acting_user=acting_user)
    return token, made


def revoke_api_token(token: ApiToken, *, acting_user: User | None) -> ApiToken:
    """End a token now. Again does nothing."""
    return _revoke(token, noun="api_token", acting_user=acting_user)


def note_use(token: HashedToken | OAuthClient, *, now: datetime) -> None:
    """Remember that the token, or the client, was used, to the minute. The caller holds the scope."""
    if token.last_used_at is None or now - token.last_used_at >= USE_NOTED_EVERY:
        type(token).objects.filter(pk=token.pk).update(last_used_at=now)


def forget_old_tokens(*, now: datetime) -> int:
    """Delete tokens that ended long ago; returns how many."""
    horizon = now - FORGET_TOKENS_AFTER
    ended = Q(expires_at__lt=horizon) | Q(revoked_at__lt=horizon)
    with every_tenant():
        return sum(int(kind.objects.filter(ended).delete()[0]) for kind in (AgentToken, ApiToken, ServiceToken))


# ---------------------------------------------------------------- identity providers


@dataclass(frozen=True, slots=True, order=True)
class RuleSpec:
    """A rule as it is wanted: claims for which all these conditions hold stand for this agent."""

    conditions: tuple[str, ...]
    agent_id: UUID


@transaction.atomic
def save_trust(trust: OidcTrust, *, acting_user: User | None, rules: Iterable[RuleSpec] | None = None) -> bool:
    """Create or change a trust, and its rules when they are given (all of them). False when nothing differed.

    Deactivated, it lets nobody in, and the tokens that were made from its JWTs end. Raises ValidationError, which names
    the field.
    """
    check_trust(trust)
    with scope(tenant=trust.tenant_id):
        kept = {} if trust._state.adding else {_spec(rule): rule for rule in TrustRule.objects.filter(trust=trust)}
        wanted = set(kept) if rules is None else set(rules)
        if len(wanted) > MAX_TRUST_RULES:
            raise ValidationError({"rules": f"A trust has at most {MAX_TRUST_RULES} rules."})
        if len({frozenset(spec.conditions) for spec in wanted}) != len(wanted):
            raise ValidationError({"rules": "The same conditions stand for two agents. Keep one of the rules."})
        check_anchors(trust, (spec.conditions for spec in wanted))
        told = {} if wanted == set(kept) else {"rules": _rules_state(wanted)}
        changed = save_recorded(trust, acting_user=acting_user, noun="oidc_trust", fields=_TRUST_FIELDS, also=told)
        for spec in set(kept) - wanted:
            kept[spec].delete()
        for spec in sorted(wanted - set(kept)):
            rule = TrustRule(
                tenant_id=trust.tenant_id, trust=trust, conditions=list(spec.conditions), agent_id=spec.agent_id
            )
            _check_rule(rule)
            rule.save()
        if not trust.is_active:
            _revoke_made_from(trust, acting_user=acting_user)
    return changed


@transaction.atomic
def delete_trust(trust: OidcTrust, *, acting_user: User | None) -> None:
    """Trust this provider no more."""
    with scope(tenant=trust.tenant_id):
        _revoke_made_from(trust, acting_user=acting_user)
    delete_recorded(trust, acting_user=acting_user, noun="oidc_trust", fields=_TRUST_FIELDS)


# ---------------------------------------------------------------- details


def _set_password(user: User, password: str) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from None
    user.set_password(password)
    user.is_password_told = True


def _user_state(user: User | None) -> dict[str, Any] | None:
    return None if user is None else describe(user, _USER_FIELDS)


def _keep_token(
    token: HashedToken, made: NewToken, *, tenant: Tenant, lifetime: timedelta, longest: timedelta, label: str
) -> None:
    if not MIN_TOKEN_LIFETIME <= lifetime <= longest:
        problem = f"Use {MIN_TOKEN_LIFETIME.total_seconds():.0f} to {longest.total_seconds():.0f} seconds."
        raise ValidationError({"lifetime_seconds": problem})
    token.tenant = tenant
    token.label = label
    token.token_id = made.token_id
    token.digest = made.digest
    token.expires_at = timezone.now() + lifetime
    with scope(tenant=tenant):
        token.full_clean()
        token.save()


def _tell_token(token: HashedToken, *, noun: str, verb: str, acting_user: User | None) -> None:
    state = {"label": token.label, "expires_at": token.expires_at, "revoked_at": token.revoked_at}
    append_entry(
        tenant=token.tenant,
        kind=f"{noun}.{verb}",
        acting_user=acting_user,
        subject=subject_of(noun, token),
        before=None if verb == "issued" else {**state, "revoked_at": None},
        after=state,
    )


@transaction.atomic
def _revoke(token: HashedTokenT, *, noun: str, acting_user: User | None) -> HashedTokenT:
    now = timezone.now()
    with scope(tenant=token.tenant_id):
        token = type(token).objects.select_for_update().get(pk=token.pk)
        if token.revoked_at is None:
            token.revoked_at = now
            token.save(update_fields=("revoked_at", "updated_at"))  # heard by whoever has sessions to end
            _tell_token(token, noun=noun, verb="revoked", acting_user=acting_user)
            if isinstance(token, AgentToken):  # what was made from it ends with it
                for child in AgentToken.objects.filter(made_from(token=token), revoked_at=None):
                    _revoke(child, noun=noun, acting_user=acting_user)
    return token


def _revoke_made_from(trust: OidcTrust, *, acting_user: User | None) -> None:
    for token in AgentToken.objects.filter(made_from(trust=trust), revoked_at=None, expires_at__gt=timezone.now()):
        revoke_agent_token(token, acting_user=acting_user)


def _check_rule(rule: TrustRule) -> None:
    try:
        rule.full_clean()
    except ValidationError as error:
        raise ValidationError({"rules": error.messages}) from None


def _spec(rule: TrustRule) -> RuleSpec:
    return RuleSpec(conditions=tuple(rule.conditions), agent_id=rule.agent_id)


def _rules_state(specs: Iterable[RuleSpec]) -> list[str]:
    """The rules in words. Raises ValidationError for an agent that isn't of the tenant in scope."""
    told = []
    for spec in sorted(specs):
        name = Agent.objects.filter(pk=spec.agent_id).values_list("name", flat=True).first()
        if name is None:
            problem = f"The rule for {' and '.join(spec.conditions)} names no agent of this tenant."
            raise ValidationError({"rules": problem})
        told.append(f"{' and '.join(spec.conditions)} → {name}")
    return told
