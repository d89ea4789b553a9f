"""The kinds of documents for `manage.py apply`: Tenant, User, Agent, OidcTrust.

kind: Tenant
slug: acme
name: Acme

kind: User
email: ada@acme.example
password: {env: ADA_PASSWORD}
roles: {acme: owner}

kind: Agent
tenant: acme
name: reporter
sponsor: ada@acme.example
groups: [reporting]

kind: OidcTrust
tenant: acme
name: workforce
issuer: https://idp.acme.example
audience: narrowgate
rules: [{conditions: [sub = reporter-prod], agent: reporter}]
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from accounts import actions
from accounts.federation import manifest as federation
from accounts.models import DEFAULT_ALGORITHMS, Agent, Membership, OidcTrust, Tenant, TrustKind, TrustRule, User
from controlplane.apply.kinds import (
    HIDDEN,
    Applying,
    Change,
    Document,
    DocumentError,
    Kind,
    SecretSource,
    TenantDocument,
    bring_about,
)
from controlplane.authority import Role


class TenantFields(Document, frozen=True, kw_only=True):
    """A tenant, by its slug. `requires_review`: a second person approves a policy before it is published."""

    slug: str
    name: str
    is_active: bool = True
    requires_review: bool = False


class UserFields(Document, frozen=True, kw_only=True):
    """A person, by e-mail address. `roles` maps tenants' slugs to roles; those not named stay as they are."""

    email: str
    name: str = ""
    password: SecretSource | None = None
    is_active: bool = True
    is_operator: bool = False
    roles: dict[str, Role] = {}


class AgentFields(TenantDocument, frozen=True, kw_only=True):
    """An agent, by tenant and name."""

    name: str
    description: str = ""
    sponsor: str | None = None
    groups: list[str] = []
    is_active: bool = True


class TrustRuleFields(Document, frozen=True, kw_only=True):
    """Which claims stand for which agent: conditions as in `accounts.matching`."""

    conditions: list[str]
    agent: str

    def __str__(self) -> str:
        return f"{' and '.join(self.conditions)} → {self.agent}"


class OidcTrustFields(TenantDocument, frozen=True, kw_only=True):
    """A trust with all of its rules, by tenant and name. `proof` is its kind, a word that documents have taken."""

    name: str
    proof: TrustKind = TrustKind.JWT
    issuer: str
    audience: str
    jwks_url: str = ""
    metadata_url: str = ""
    metadata: str = ""
    algorithms: list[str] = msgspec.field(default_factory=lambda: [one.value for one in DEFAULT_ALGORITHMS])
    clock_skew_seconds: int = 30
    person_claim: str = ""
    groups_claim: str = ""
    label_claims: list[str] = []
    is_active: bool = True
    rules: list[TrustRuleFields] = []


class TenantKind:
    """Tenants."""

    name: Final = "Tenant"
    rank: Final = 0
    document: Final = TenantFields

    def apply(self, wanted: TenantFields, *, applying: Applying) -> Change | None:  # noqa: ARG002  # Kind's signature
        """By slug."""
        return bring_about(
            Tenant.objects.filter(slug=wanted.slug).first(),
            Tenant,
            values={
                "slug": wanted.slug,
                "name": wanted.name,
                "is_active": wanted.is_active,
                "requires_review": wanted.requires_review,
            },
            save=partial(actions.save_tenant, acting_user=None),
        )


class UserKind:
    """People with their roles."""

    name: Final = "User"
    rank: Final = 10
    document: Final = UserFields

    def apply(self, wanted: UserFields, *, applying: Applying) -> Change | None:
        """By address. The password is set when it isn't that one already."""
        user = User.objects.filter(email=wanted.email.lower()).first()
        password = None
        if wanted.password is not None:
            password = applying.secret(wanted.password, field="password")
            if user is not None and user.check_password(password):
                password = None
        values = {
            "email": wanted.email.lower(),
            "name": wanted.name,
            "is_active": wanted.is_active,
            "is_superuser": wanted.is_operator,
        }
        saved: list[User] = []

        def save(row: User) -> None:
            saved.append(actions.save_user(row, acting_user=None, password=password))

        change = bring_about(user, User, values=values, save=save)
        if change is None and password is not None and user is not None:
            save(user)
            change = Change(verb="change", name=str(user), fields={})
        person = saved[0] if saved else user
        if person is None:
            raise AssertionError("a new person is always saved")
        more: dict[str, tuple[Any, Any]] = {} if password is None else {"password": (None, HIDDEN)}
        more |= _give_roles(person, wanted.roles)
        if change is None:
            return Change(verb="change", name=str(person), fields=more) if more else None
        return Change(verb=change.verb, name=change.name, fields={**change.fields, **more})


class AgentKind:
    """Agents."""

    name: Final = "Agent"
    rank: Final = 20
    document: Final = AgentFields

    def apply(self, wanted: AgentFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        sponsor = User.objects.filter(email=wanted.sponsor.lower()).first() if wanted.sponsor else None
        if wanted.sponsor and sponsor is None:
            raise DocumentError("sponsor", f"there is no user {wanted.sponsor}", "Add a document of kind User")
        values = {
            "name": wanted.name,
            "description": wanted.description,
            "sponsor": sponsor,
            "groups": sorted(set(wanted.groups)),
            "is_active": wanted.is_active,
        }
        return bring_about(
            Agent.objects.filter(name=wanted.name).first(),
            lambda: Agent(tenant=applying.tenant),
            values=values,
            save=partial(actions.save_agent, acting_user=None),
        )


class OidcTrustKind:
    """Trusts with their rules."""

    name: Final = "OidcTrust"
    rank: Final = 30
    document: Final = OidcTrustFields

    def apply(self, wanted: OidcTrustFields, *, applying: Applying) -> Change | None:
        """By name within the tenant; rules that aren't in the document go."""
        trust = OidcTrust.objects.filter(name=wanted.name).first()
        kept = [] if trust is None else TrustRule.objects.filter(trust=trust).select_related("agent")
        rules_before = sorted(str(rule) for rule in kept)
        rules_after = sorted(str(rule) for rule in wanted.rules)
        specs = [_rule_spec(index, rule) for index, rule in enumerate(wanted.rules)]
        save = partial(actions.save_trust, acting_user=None, rules=specs)
        values = {name: getattr(wanted, name) for name in _TRUST_VALUES} | {"kind": wanted.proof.value}
        change = bring_about(trust, lambda: OidcTrust(tenant=applying.tenant), values=values, save=save)
        if rules_before == rules_after:
            return change
        told = {"rules": (rules_before, rules_after)}
        if trust is not None and change is None:
            save(trust)
        fields = {**change.fields, **told} if change else told
        return Change(verb="create" if trust is None else "change", name=wanted.name, fields=fields)


_TRUST_VALUES: Final = (
    "name", "issuer", "audience", "jwks_url", "metadata_url", "metadata", "algorithms", "clock_skew_seconds",
    "person_claim", "groups_claim", "label_claims", "is_active",
)  # fmt: skip

KINDS: Final[tuple[Kind, ...]] = (TenantKind(), UserKind(), AgentKind(), OidcTrustKind(), *federation.KINDS)


def _give_roles(user: User, roles: Mapping[str, Role]) -> dict[str, tuple[Any, Any]]:
    changed: dict[str, tuple[Any, Any]] = {}
    for slug, role in roles.items():
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            raise DocumentError(f"roles.{slug}", "there is no such tenant", "Add a document of kind Tenant")
        membership = Membership.objects.filter(user=user, tenant=tenant).first()
        before = None if membership is None else membership.role
        if before != role.value:
            membership = membership or Membership(user=user, tenant=tenant)
            membership.role = role.value
            actions.save_membership(membership, acting_user=None)
            changed[f"roles.{slug}"] = (before, role.value)
    return changed


def _rule_spec(index: int, rule: TrustRuleFields) -> actions.RuleSpec:
    agent = Agent.objects.filter(name=rule.agent).first()
    if agent is None:
        raise DocumentError(f"rules[{index}].agent", f"there is no agent {rule.agent}", "Add a document of kind Agent")
    return actions.RuleSpec(conditions=tuple(rule.conditions), agent_id=agent.pk)
