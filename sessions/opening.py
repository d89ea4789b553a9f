"""Opens sessions: who asks, may they, and what does the data path need.

    bounds → identify the agent → find the target → decide by policy → is any of it stopped, or too much?
           → open its credential → session row and grant

The policy is asked of a target that doesn't exist too, so that whoever may not reach a target hears the same whether it
exists or not. A refusal is kept for the admin to show.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import msgspec
import structlog
from django.db import connection, transaction
from django_scopes import scope

from accounts.errors import BadCredential, ExpiredCredential
from accounts.identify import IdentifiedAgent, identify_agent
from accounts.models import Agent
from controlplane.keyring import KeyringError
from policies import engine
from policies.access import describe_target, effective_policy
from policies.engine import Decision, Effect, Policy, Principal, SessionPolicy
from proxyworker.contract import (
    MAX_CREDENTIAL_BYTES,
    OpenSession,
    RefusalCode,
    Refused,
    Secret,
    SessionGrant,
    SessionLimits,
    TargetEndpoint,
    TlsMode,
    UpstreamCredential,
)
from sessions.budgets import refuse_too_many
from sessions.errors import OpenRefused
from sessions.ingest import LinkedWorker
from sessions.killing.access import order_against
from sessions.killing.actions import share_opening
from sessions.models import AgentSession
from sessions.principals import told_of
from targets.access import find_active_target, open_secret
from targets.models import TARGET_NAME_PATTERN, Target

log = structlog.get_logger(__name__)

LIMITS: Final = SessionLimits()
#: Rows about refused attempts through one worker in one hour; further ones are counted together. Whoever is refused
#: chooses the target's name, so their number would else be theirs to choose.
MAX_REFUSALS_PER_HOUR: Final = 1_000

_HELP_EXPIRED: Final = "Get a new token for this agent and connect again with it as the password."
_HELP_NARROWED: Final = "Connect to a target that the token names, or get a token for this one."
_HELP_TARGET: Final = "Check the target's name; your administrator has the list of targets."
_HELP_STOPPED: Final = "Retrying will not help until an administrator of Narrowgate lifts the order."
_HELP_LATER: Final = "Ask an administrator of Narrowgate; the reason is in its log."

_COUNT_REFUSALS: Final = """
    SELECT count(*) FROM agent_sessions_sessionrefusal WHERE worker_id = %s AND hour = date_trunc('hour', %s)"""
_NOTE_REFUSAL: Final = """
    INSERT INTO agent_sessions_sessionrefusal
      (id, tenant_id, worker_id, agent_id, target_name, client_host, code, reason, hour, last_at, count, created_at,
       updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, date_trunc('hour', %s), %s, 1, now(), now())
    ON CONFLICT (worker_id, agent_id, target_name, client_host, code, hour) DO UPDATE
    SET count = agent_sessions_sessionrefusal.count + 1, last_at = excluded.last_at, reason = excluded.reason,
        updated_at = now()"""


def open_session(worker: LinkedWorker, frame: OpenSession, *, now: datetime) -> SessionGrant | Refused:
    """Grant the session, having written its row, or refuse it, having written that."""
    try:
        identified = _identify(worker, frame, now=now)
        with scope(tenant=worker.tenant_id), transaction.atomic():
            return _grant(worker, frame, identified, now=now)
    except OpenRefused as refusal:
        _note_refusal(worker, frame, refusal, now=now)
        return Refused(request_id=frame.request_id, code=refusal.code, reason=refusal.reason, help=refusal.help)


def _identify(worker: LinkedWorker, frame: OpenSession, *, now: datetime) -> IdentifiedAgent:
    credential = frame.credential.value
    try:
        if len(credential.encode()) > MAX_CREDENTIAL_BYTES:
            raise BadCredential("over the bound")
        return identify_agent(credential, now=now, tenant_id=worker.tenant_id)
    except ExpiredCredential as error:
        reason = f"the token expired at {error.expired_at:%Y-%m-%d %H:%M:%S} UTC"
        raise OpenRefused(RefusalCode.EXPIRED_CREDENTIAL, reason, _HELP_EXPIRED) from error
    except BadCredential as error:
        raise OpenRefused(RefusalCode.BAD_CREDENTIAL, "the token is not valid here", error.help) from error


def _grant(worker: LinkedWorker, frame: OpenSession, identified: IdentifiedAgent, *, now: datetime) -> SessionGrant:
    agent = identified.agent
    if not re.match(TARGET_NAME_PATTERN, frame.target):  # no leak: such a target can't exist
        raise _no_such_target(frame.target, agent)
    if identified.targets is not None and frame.target not in identified.targets:
        reason = f"the token is good for {', '.join(identified.targets)} only"
        raise OpenRefused(RefusalCode.DENIED, reason, _HELP_NARROWED, agent=agent)
    principal = Principal(
        id=str(agent.pk),
        name=agent.name,
        groups=identified.groups,
        authenticated_by=identified.authenticated_by,
        on_behalf_of=identified.on_behalf_of,
        actors=identified.actors,
        issued_by=identified.issued_by,
        behind=msgspec.convert(identified.behind, dict[str, engine.Actor]),
        labels=dict(identified.labels),
        sponsor="" if agent.sponsor is None else agent.sponsor.email,
    )
    policy = effective_policy(worker.tenant_id)
    target = find_active_target(tenant_id=worker.tenant_id, name=frame.target, protocol=frame.protocol)
    # Asked of a target that isn't there too: whoever may reach none of that name hears the same.
    described = engine.Target(name=frame.target, protocol=frame.protocol) if target is None else describe_target(target)
    decision = SessionPolicy(policy, principal=principal, target=described).admits(now=now.timestamp())
    if decision.effect is not Effect.ALLOW:
        raise OpenRefused(RefusalCode.DENIED, decision.reason, decision.help, agent=agent)
    _refuse_what_is_stopped(agent, target)
    if target is None:
        raise _no_such_target(frame.target, agent)
    refuse_too_many(policy, principal=principal, agent=agent, target=target, now=now)
    credential = _upstream_credential(target, agent)
    expires_at = min(identified.expires_at, now + timedelta(seconds=LIMITS.max_session_seconds))
    session = _write_session(
        worker, frame, identified, target=target, principal=principal, decision=decision, now=now, expires_at=expires_at
    )
    return _as_grant(frame, session, principal=principal, policy=policy, credential=credential)


def _refuse_what_is_stopped(agent: Agent, target: Target | None) -> None:
    share_opening(agent.tenant_id)
    order = order_against(agent, target)
    if order is not None:
        reason = f"{order} is stopped since {order.ordered_at:%Y-%m-%d %H:%M} UTC: {order.reason}"
        raise OpenRefused(RefusalCode.DENIED, reason, _HELP_STOPPED, agent=agent)


def _no_such_target(name: str, agent: Agent) -> OpenRefused:
    reason = f"there is no target {_printable(name, 63)!r} that speaks this protocol"
    return OpenRefused(RefusalCode.NO_SUCH_TARGET, reason, _HELP_TARGET, agent=agent)


def _upstream_credential(target: Target, agent: Agent) -> UpstreamCredential:
    if not hasattr(target, "credential"):
        reason = f"target {target.name} has no credential yet"
        raise OpenRefused(RefusalCode.UNAVAILABLE, reason, _HELP_LATER, agent=agent)
    try:
        secret = open_secret(target.credential)
    except KeyringError as error:
        log.exception("credential_not_opened", target=target.name)
        reason = f"the credential of target {target.name} can't be opened"
        raise OpenRefused(RefusalCode.UNAVAILABLE, reason, _HELP_LATER, agent=agent) from error
    return UpstreamCredential(username=target.credential.username, secret=Secret(secret))


def _write_session(
    worker: LinkedWorker,
    frame: OpenSession,
    identified: IdentifiedAgent,
    *,
    target: Target,
    principal: Principal,
    decision: Decision,
    now: datetime,
    expires_at: datetime,
) -> AgentSession:
    return AgentSession.objects.create(
        tenant_id=worker.tenant_id,
        agent=identified.agent,
        target=target,
        worker_id=worker.id,
        process=worker.process,
        protocol=frame.protocol,
        client_address=_printable(frame.client_address, 64),
        client_name=_printable(frame.client_name, 200),
        tls_version=_printable(frame.tls.version, 32),
        tls_cipher=_printable(frame.tls.cipher, 64),
        policy_version=decision.policy_version,
        rule=decision.rule[:200],
        credential_id=identified.credential_id,
        principal=told_of(principal),
        granted_at=now,
        expires_at=expires_at,
    )


def _as_grant(
    frame: OpenSession, session: AgentSession, *, principal: Principal, policy: Policy, credential: UpstreamCredential
) -> SessionGrant:
    target = session.target
    return SessionGrant(
        request_id=frame.request_id,
        session_id=str(session.pk),
        tenant_id=str(session.tenant_id),
        principal=principal,
        target=TargetEndpoint(
            id=str(target.pk),
            name=target.name,
            protocol=target.protocol,
            host=target.host,
            port=target.port,
            database=target.database,
            tls_mode=TlsMode(target.tls_mode),
            ca_pem=target.ca_pem,
            environment=target.environment,
            labels=target.labels,
        ),
        credential=credential,
        policy=policy,
        limits=LIMITS,
        expires_at=session.expires_at.timestamp(),
    )


def _note_refusal(worker: LinkedWorker, frame: OpenSession, refusal: OpenRefused, *, now: datetime) -> None:
    agent = refusal.agent
    target_name = _printable(frame.target, 63)
    client_host = _printable(frame.client_address.rpartition(":")[0] or frame.client_address, 64)
    log.info(
        "session_refused",
        code=refusal.code.value,
        agent=agent.name if agent else None,
        target=target_name,
        client_host=client_host,
        worker=worker.name,
    )
    with scope(tenant=worker.tenant_id), connection.cursor() as cursor:
        cursor.execute(_COUNT_REFUSALS, [worker.id, now])
        if cursor.fetchone()[0] >= MAX_REFUSALS_PER_HOUR:
            target_name = client_host = ""
        cursor.execute(
            _NOTE_REFUSAL,
            [
                uuid4(), worker.tenant_id, worker.id, agent.pk if agent else None, target_name,
                client_host, refusal.code.value, _printable(refusal.reason, 500), now, now,
            ],
        )  # fmt: skip


def _printable(text: str, most_characters: int) -> str:
    """What an agent sent, fit for a row and a page: cut, and without control characters."""
    return "".join(character if character.isprintable() else "�" for character in text[:most_characters])
