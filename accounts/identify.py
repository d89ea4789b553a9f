"""Who presents this credential? The one door for every way in which an agent proves itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog
from django_scopes import scope

from accounts import oidc, trusting
from accounts.access import departed_people, inactive_people, suspended_agents
from accounts.actions import note_use
from accounts.errors import BadCredential, ExpiredCredential
from accounts.models import Agent, AgentToken, OidcTrust, Tenant
from accounts.sources import refuse_withdrawn
from accounts.tokens import AGENT_PREFIX, LOGIN_PREFIX, parse_token
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)

BY_ISSUED_TOKEN: Final = "issued_token"  # noqa: S105  # the way, not the token


@dataclass(frozen=True, slots=True)
class IdentifiedAgent:
    """An active agent of an active tenant, and until when it may count on that.

    `credential_id` names what it proved itself by ("token:<id>", "trust:<uuid>"), for whoever withdraws that later.
    """

    tenant: Tenant
    agent: Agent
    authenticated_by: str
    credential_id: str
    expires_at: datetime
    groups: tuple[str, ...]
    on_behalf_of: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    actors: tuple[str, ...] = ()
    #: What is known of the agents among `actors`: name → groups, labels, sponsor.
    behind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The only targets that the credential opens; None: whatever policy allows.
    targets: tuple[str, ...] | None = None
    #: What it was made from: with these, it ends.
    trust: OidcTrust | None = None
    token: AgentToken | None = None
    #: What else it was made from, by the names of `sources`.
    also: tuple[str, ...] = ()
    #: The addresses of the people who issued it, or what it was made from.
    issued_by: tuple[str, ...] = ()


def identify_agent(credential: str, *, now: datetime, tenant_id: UUID | None = None) -> IdentifiedAgent:
    """Find the agent that this credential stands for. `tenant_id`: the only tenant in which to look, where known.

    Raises `BadCredential` or `ExpiredCredential`. Needs no scope; the rows that it returns are of one tenant.
    """
    try:
        with every_tenant() if tenant_id is None else scope(tenant=tenant_id):
            if oidc.is_jwt(credential):
                return _by_jwt(credential, now=now, tenant_id=tenant_id)
            return _by_issued_token(credential, now=now, tenant_id=tenant_id)
    except BadCredential as error:
        log.info("credential_refused", why=error.why)
        raise


def _by_issued_token(credential: str, *, now: datetime, tenant_id: UUID | None) -> IdentifiedAgent:
    presented = parse_token(credential, prefix=AGENT_PREFIX) or parse_token(credential, prefix=LOGIN_PREFIX)
    if presented is None:
        raise BadCredential("neither a JWT nor an issued token")
    token = _find_token(presented.token_id, tenant_id=tenant_id)
    if token is None or not presented.matches(token.digest):
        raise BadCredential("unknown token")
    if token.revoked_at is not None or (token.parent is not None and token.parent.revoked_at is not None):
        raise BadCredential("revoked token")
    if not all(source is None or source.is_active for source in (token.trust, token.client)):
        raise BadCredential("inactive trust or client")
    if not (token.agent.is_active and token.tenant.is_active):
        raise BadCredential("inactive agent or tenant")
    refuse_suspended(token.agent)
    if token.expires_at <= now:
        raise ExpiredCredential(token.expires_at)
    carried = token.carried
    refuse_withdrawn(carried.get("also", ()), tenant_id=token.tenant_id)
    refuse_departed(carried.get("on_behalf_of", ""), tenant_id=token.tenant_id)
    note_use(token, now=now)
    return IdentifiedAgent(
        tenant=token.tenant,
        agent=token.agent,
        authenticated_by=carried.get("authenticated_by", BY_ISSUED_TOKEN),
        credential_id=f"token:{token.token_id}",
        expires_at=token.expires_at,
        groups=tuple(sorted({*token.agent.groups, *carried.get("groups", ())})),
        on_behalf_of=carried.get("on_behalf_of", ""),
        labels=carried.get("labels", {}),
        actors=tuple(carried.get("actors", ())),
        behind=carried.get("behind", {}),
        also=tuple(carried.get("also", ())),
        issued_by=tuple(carried.get("issued_by", ())) or _issuer_of(token),
        targets=None if token.targets is None else tuple(token.targets),
        token=token,
    )


def _issuer_of(token: AgentToken) -> tuple[str, ...]:
    return () if token.issued_by is None else (token.issued_by.email,)


def _find_token(token_id: str, *, tenant_id: UUID | None) -> AgentToken | None:
    """With what each token has; what few were made from is asked for where it is looked at."""
    tokens = AgentToken.objects.filter(token_id=token_id).select_related("agent", "tenant", "issued_by")
    try:
        return tokens.get() if tenant_id is None else tokens.get(tenant_id=tenant_id)
    except AgentToken.DoesNotExist:
        return None


def _by_jwt(credential: str, *, now: datetime, tenant_id: UUID | None) -> IdentifiedAgent:
    return agent_of(oidc.verify_token(credential, now=now, tenant_id=tenant_id))


def agent_of(verified: oidc.VerifiedToken) -> IdentifiedAgent:
    """The agent that a verified proof stands for. Raises `BadCredential`. Needs a scope."""
    trust, claims = verified.trust, verified.claims
    agent = trusting.find_agent(claims, trust)
    refuse_suspended(agent)
    person = trusting.person_of(claims, trust)
    refuse_departed(person, tenant_id=trust.tenant_id)
    return IdentifiedAgent(
        tenant=trust.tenant,
        agent=agent,
        authenticated_by=verified.authenticated_by,
        credential_id=f"trust:{trust.pk}",
        expires_at=verified.expires_at,
        groups=trusting.groups_of(claims, trust, agent),
        on_behalf_of=person,
        labels=trusting.labels_of(claims, trust),
        actors=trusting.actors_of(claims),
        trust=trust,
    )


def refuse_suspended(agent: Agent) -> None:
    """Raises `BadCredential` for an agent whose sponsor has left."""
    if agent.sponsor_id is not None and suspended_agents().filter(pk=agent.pk).exists():
        raise BadCredential("the agent's sponsor has left")


def refuse_departed(person: str, *, tenant_id: UUID) -> None:
    """Raises `BadCredential` for whom the tenant's directory, or an operator, has deactivated: nobody acts for them."""
    if not person:
        return
    has_left = departed_people().filter(tenant_id=tenant_id, user_name=person.lower()).exists()
    if has_left or inactive_people().filter(email=person.lower()).exists():
        raise BadCredential("the person behind the agent has left")
