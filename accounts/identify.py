"""Who presents this credential? The one door for every way in which an agent proves itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from django_scopes import scope

from accounts import oidc, trusting
from accounts.access import suspended_agents
from accounts.actions import note_use
from accounts.errors import BadCredential, ExpiredCredential
from accounts.models import Agent, AgentToken, Tenant
from accounts.tokens import AGENT_PREFIX, parse_token
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)

BY_ISSUED_TOKEN: Final = "issued_token"  # noqa: S105  # the way, not the token
BY_OIDC: Final = "oidc"


@dataclass(frozen=True, slots=True)
class IdentifiedAgent:
    """An active agent of an active tenant, and until when it may count on that. The last four are as in `Principal`.

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
    presented = parse_token(credential, prefix=AGENT_PREFIX)
    if presented is None:
        raise BadCredential("neither a JWT nor an issued token")
    tokens = AgentToken.objects.filter(token_id=presented.token_id).select_related("agent", "tenant")
    token = tokens.filter(tenant_id=tenant_id).first() if tenant_id else tokens.first()
    if token is None or not presented.matches(token.digest):
        raise BadCredential("unknown token")
    if token.revoked_at is not None:
        raise BadCredential("revoked token")
    if not (token.agent.is_active and token.tenant.is_active):
        raise BadCredential("inactive agent or tenant")
    _refuse_suspended(token.agent)
    if token.expires_at <= now:
        raise ExpiredCredential(token.expires_at)
    note_use(token, now=now)
    return IdentifiedAgent(
        tenant=token.tenant,
        agent=token.agent,
        authenticated_by=BY_ISSUED_TOKEN,
        credential_id=f"token:{token.token_id}",
        expires_at=token.expires_at,
        groups=tuple(token.agent.groups),
    )


def _by_jwt(credential: str, *, now: datetime, tenant_id: UUID | None) -> IdentifiedAgent:
    verified = oidc.verify_token(credential, now=now, tenant_id=tenant_id)
    trust, claims = verified.trust, verified.claims
    agent = trusting.find_agent(claims, trust)
    _refuse_suspended(agent)
    return IdentifiedAgent(
        tenant=trust.tenant,
        agent=agent,
        authenticated_by=BY_OIDC,
        credential_id=f"trust:{trust.pk}",
        expires_at=verified.expires_at,
        groups=trusting.groups_of(claims, trust, agent),
        on_behalf_of=trusting.person_of(claims, trust),
        labels=trusting.labels_of(claims, trust),
        actors=trusting.actors_of(claims),
    )


def _refuse_suspended(agent: Agent) -> None:
    if suspended_agents().filter(pk=agent.pk).exists():
        raise BadCredential("the agent's sponsor has left")
