"""What a request to the token endpoint is entitled to: whose token, on whose behalf, for which targets, until when.

    client_credentials         the client's agent
    token exchange (RFC 8693)  the subject's agent; with an actor, the actor's agent on behalf of the subject

Every hop is kept, and rights only shrink: targets are intersected, the earliest end counts. Pure but for looking up who
the tokens stand for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from accounts import oidc, trusting
from accounts.errors import AccountsError, NoAgent
from accounts.identify import IdentifiedAgent, agent_of, identify_agent, refuse_departed, refuse_suspended
from accounts.matching import text_at
from accounts.models import Agent, AgentToken, OidcTrust
from accounts.oauth.aws import verify_caller_identity
from accounts.oauth.models import OAuthClient
from accounts.oauth.saml import verify_assertion
from accounts.oauth.wire import OAuthError, one
from accounts.sources import sources_of

log = structlog.get_logger(__name__)

CLIENT_CREDENTIALS: Final = "client_credentials"
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  # a name
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # a name
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  # a name
SAML2: Final = "urn:ietf:params:oauth:token-type:saml2"
AWS_CALLER: Final = "urn:narrowgate:params:oauth:token-type:aws-caller-identity"
#: What may be exchanged.
SUBJECT_TYPES: Final = frozenset({ACCESS_TOKEN, JWT, ID_TOKEN, SAML2, AWS_CALLER})
#: Short enough that nobody needs to wait for a revocation that was forgotten.
LIFETIME: Final = timedelta(minutes=15)
MAX_TARGETS: Final = 50

RESOURCE_PREFIX: Final = "urn:narrowgate:target:"
SCOPE_PREFIX: Final = "target:"
_TARGET_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What may be issued. `carried` is what `identify` finds in the token again."""

    agent: Agent
    expires_at: datetime
    targets: tuple[str, ...] | None
    carried: Mapping[str, Any]
    trust: OidcTrust | None = None
    client: OAuthClient | None = None
    parent: AgentToken | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Where and when something is presented, and the only tenant that it may be of, where that is known."""

    endpoint: str
    now: datetime
    tenant_id: UUID | None


@dataclass(frozen=True, slots=True)
class Party:
    """Whom a token stands for: an agent, or a person alone."""

    tenant_id: UUID
    expires_at: datetime
    agent: Agent | None
    authenticated_by: str
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    person: str = ""
    actors: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    trust: OidcTrust | None = None
    client: OAuthClient | None = None
    token: AgentToken | None = None
    #: What is known of the agents among `actors`: name → groups, labels, sponsor.
    behind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What the party's proof was made from beside its trust, client and token, by the names of `accounts.sources`.
    also: tuple[str, ...] = ()
    #: The addresses of those who issued what it was made from.
    issued_by: tuple[str, ...] = ()
    subject: str = ""
    may_act: Any = None


def entitlement(
    form: Mapping[str, list[str]],
    client: OAuthClient | None,
    *,
    endpoint: str,
    now: datetime,
    tenant_id: UUID | None,
) -> Entitlement:
    """What this request to `endpoint`, our URL, is entitled to. The caller holds a scope that sees the tenant, or all.

    Raises `OAuthError`.
    """
    wanted = _wanted_targets(form)
    match one(form, "grant_type"):
        case grant if grant == CLIENT_CREDENTIALS:
            if client is None:
                raise OAuthError("invalid_request", "client authentication is missing")
            party = _client_party(client, now=now)
        case grant if grant == TOKEN_EXCHANGE:
            tenant_id = client.tenant_id if client is not None else tenant_id
            party = _exchanged(form, client, at=Asked(endpoint=endpoint, now=now, tenant_id=tenant_id))
        case _:
            raise OAuthError("unsupported_grant_type", "use client_credentials or token exchange")
    return _entitled(party, wanted, now=now)


def _exchanged(form: Mapping[str, list[str]], client: OAuthClient | None, *, at: Asked) -> Party:
    subject = _presented(form, "subject_token", at=at)
    if "actor_token" in form:
        actor = _presented(form, "actor_token", at=replace(at, tenant_id=subject.tenant_id))
    elif "actor_token_type" in form:
        raise OAuthError("invalid_request", "actor_token is missing")
    elif client is not None and client.agent != subject.agent:
        actor = _client_party(client, now=at.now)
    else:
        if subject.agent is None:
            raise OAuthError("invalid_request", "the subject is no agent, so actor_token must say who acts")
        return _by_client(subject, client)
    if actor.agent is None:
        raise OAuthError("invalid_request", "actor_token stands for no agent")
    if client is not None and client.agent not in {actor.agent, subject.agent}:
        raise OAuthError("invalid_grant", "the client is neither subject nor actor")
    return _by_client(_on_behalf(actor, subject), client)


def _by_client(party: Party, client: OAuthClient | None) -> Party:
    """Asked for by this client: what another one got hangs on that one as well."""
    if client is None or party.client in {None, client}:
        return replace(party, client=client or party.client)
    return replace(party, client=client, also=(*party.also, *sources_of(client=party.client)))


def _on_behalf(actor: Party, subject: Party) -> Party:
    """The actor, for the subject: each hop in the chain, and no right that either lacks."""
    if subject.may_act is not None and not _is_permitted(subject.may_act, actor):
        raise OAuthError("invalid_grant", "may_act of the subject names another actor")
    if actor.person and subject.person and actor.person != subject.person:
        raise OAuthError("invalid_grant", "the two tokens speak for different people")
    hop = () if subject.agent is None else (subject.agent.name,)
    actors = (*actor.actors, *hop, *subject.actors)
    behind = [*actor.behind.items(), *subject.behind.items()]
    if subject.agent is not None:
        behind.append((subject.agent.name, _known_of(subject, subject.agent)))
    own = sources_of(trust=subject.trust, client=subject.client, token=subject.token)
    if len(actors) > trusting.MAX_ACTORS:
        raise OAuthError("invalid_grant", f"a chain has at most {trusting.MAX_ACTORS} actors")
    return replace(
        actor,
        expires_at=min(actor.expires_at, subject.expires_at),
        person=actor.person or subject.person,
        actors=actors,
        behind=_shared(behind),
        targets=_both(actor.targets, subject.targets),
        issued_by=tuple(dict.fromkeys((*actor.issued_by, *subject.issued_by))),
        # What the token was made from must all hold on.
        also=tuple(dict.fromkeys((*actor.also, *subject.also, *own))),
    )


def _known_of(party: Party, agent: Agent) -> dict[str, Any]:
    sponsor = "" if agent.sponsor is None else agent.sponsor.email
    return {"groups": list(party.groups), "labels": dict(party.labels), "sponsor": sponsor}


def _shared(behind: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """By name; of an agent that is behind twice, what both say."""
    known: dict[str, Mapping[str, Any]] = {}
    for name, told in behind:
        other = known.get(name, told)
        known[name] = {
            "groups": [group for group in told["groups"] if group in other["groups"]],
            "labels": dict(told["labels"].items() & other["labels"].items()),
            "sponsor": told["sponsor"],
        }
    return known


def _is_permitted(may_act: Any, actor: Party) -> bool:
    """RFC 8693, 4.4, for the `sub` of an actor's JWT; what we can't compare doesn't permit."""
    return (
        isinstance(may_act, dict)
        and set(may_act) == {"sub"}
        and bool(actor.subject)
        and may_act["sub"] == actor.subject
    )


def _presented(form: Mapping[str, list[str]], name: str, *, at: Asked) -> Party:
    token, kind = one(form, name), one(form, f"{name}_type")
    if kind not in SUBJECT_TYPES:
        raise OAuthError("invalid_request", f"{name}_type is not supported")
    is_jwt = oidc.is_jwt(token)
    if not is_jwt and kind in {JWT, ID_TOKEN}:
        raise OAuthError("invalid_request", f"{name} is not of {name}_type")
    try:
        if kind == SAML2:
            verified = verify_assertion(token, endpoint=at.endpoint, now=at.now, tenant_id=at.tenant_id)
        elif kind == AWS_CALLER:
            verified = verify_caller_identity(token, now=at.now, tenant_id=at.tenant_id)
        elif is_jwt:
            verified = oidc.verify_token(token, now=at.now, tenant_id=at.tenant_id)
        else:
            return _agent_party(identify_agent(token, now=at.now, tenant_id=at.tenant_id))
        return _vouched_party(verified)
    except AccountsError as error:
        log.info("subject_refused", parameter=name, why=getattr(error, "why", "expired"))
        raise OAuthError("invalid_grant", f"{name} is not valid here, or has expired") from None


def _vouched_party(verified: oidc.VerifiedToken) -> Party:
    """The agent that the trust's rules find, or else the person whom its claim names. Raises `BadCredential`."""
    claims, trust = verified.claims, verified.trust
    person = trusting.person_of(claims, trust)
    try:
        party = _agent_party(agent_of(verified))
    except NoAgent:
        if not person:
            raise
        refuse_departed(person, tenant_id=trust.tenant_id)
        party = Party(
            tenant_id=trust.tenant_id,
            expires_at=verified.expires_at,
            agent=None,
            authenticated_by=verified.authenticated_by,
            person=person,
            actors=trusting.actors_of(claims),
            trust=trust,
        )
    return replace(party, subject=text_at(claims, "sub") or "", may_act=claims.get("may_act"))


def _agent_party(identified: IdentifiedAgent) -> Party:
    return Party(
        tenant_id=identified.tenant.pk,
        expires_at=identified.expires_at,
        agent=identified.agent,
        authenticated_by=identified.authenticated_by,
        groups=identified.groups,
        labels=identified.labels,
        person=identified.on_behalf_of,
        actors=identified.actors,
        behind=identified.behind,
        also=identified.also,
        issued_by=identified.issued_by,
        targets=identified.targets,
        trust=identified.trust or (identified.token.trust if identified.token else None),
        client=identified.token.client if identified.token else None,
        token=identified.token,
    )


def _client_party(client: OAuthClient, *, now: datetime) -> Party:
    if not (client.agent.is_active and client.tenant.is_active):
        raise OAuthError("invalid_grant", "the client's agent is not active")
    try:
        refuse_suspended(client.agent)
    except AccountsError:
        raise OAuthError("invalid_grant", "the client's agent is suspended") from None
    return Party(
        tenant_id=client.tenant_id,
        expires_at=now + LIFETIME,
        agent=client.agent,
        authenticated_by=client.authentication,
        groups=tuple(client.agent.groups),
        client=client,
    )


def _entitled(party: Party, wanted: tuple[str, ...] | None, *, now: datetime) -> Entitlement:
    if party.agent is None:
        raise OAuthError("invalid_grant", "no agent")
    targets = _both(party.targets, wanted)
    if targets is not None and not targets:
        raise OAuthError("invalid_target", "the token that was presented is good for none of these targets")
    return Entitlement(
        agent=party.agent,
        expires_at=min(party.expires_at, now + LIFETIME),
        targets=targets,
        carried={
            "authenticated_by": party.authenticated_by,
            "groups": list(party.groups),
            "labels": dict(party.labels),
            "on_behalf_of": party.person,
            "actors": list(party.actors),
            "behind": dict(party.behind),
            "also": list(party.also),
            "issued_by": list(party.issued_by),
        },
        trust=party.trust,
        client=party.client,
        parent=party.token,
    )


def _wanted_targets(form: Mapping[str, list[str]]) -> tuple[str, ...] | None:
    """The targets that `resource` (RFC 8707) and `scope` name; None when neither is there. Raises `OAuthError`."""
    if "audience" in form:
        raise OAuthError("invalid_target", "name targets by resource or scope")
    resources = [_name(text, RESOURCE_PREFIX, "invalid_target") for text in form.get("resource", [])]
    scopes = [_name(text, SCOPE_PREFIX, "invalid_scope") for text in form.get("scope", [""])[0].split()]
    if len(resources) + len(scopes) > MAX_TARGETS:
        raise OAuthError("invalid_request", f"a token is for at most {MAX_TARGETS} targets")
    if not resources and not scopes:
        return None
    return _both(tuple(resources) or None, tuple(scopes) or None)


def _name(text: str, prefix: str, error: str) -> str:
    name = text.removeprefix(prefix)
    if not text.startswith(prefix) or not _TARGET_NAME.fullmatch(name):
        raise OAuthError(error, f"a target is named {prefix}NAME")
    return name


def _both(one_: Sequence[str] | None, other: Sequence[str] | None) -> tuple[str, ...] | None:
    """What both allow; None allows everything."""
    if one_ is None or other is None:
        rest = one_ if other is None else other
        return None if rest is None else tuple(sorted(set(rest)))
    return tuple(sorted(set(one_) & set(other)))
