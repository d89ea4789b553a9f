"""Who was behind a session, as it was granted: kept with it, and read again for whoever decides on it later."""

from __future__ import annotations

from typing import Any

import msgspec

from policies.engine import Actor, Principal
from sessions.models import AgentSession


def told_of(principal: Principal) -> dict[str, Any]:
    """What a session keeps: all but the agent's id, which it has."""
    told: dict[str, Any] = msgspec.to_builtins(principal)
    return {name: value for name, value in told.items() if name != "id"}


def principal_of(session: AgentSession) -> Principal:
    """Who it was, as the grant said it. Sessions of old don't tell the sponsor: it is who it is now."""
    told = session.principal
    sponsor = "" if session.agent.sponsor is None else session.agent.sponsor.email
    return Principal(
        id=str(session.agent_id),
        name=session.agent.name,
        groups=tuple(told.get("groups", ())),
        authenticated_by=told.get("authenticated_by", ""),
        on_behalf_of=told.get("on_behalf_of", ""),
        actors=tuple(told.get("actors", ())),
        labels=told.get("labels", {}),
        sponsor=told.get("sponsor", sponsor),
        issued_by=tuple(told.get("issued_by", ())),
        behind=msgspec.convert(told.get("behind", {}), dict[str, Actor]),
    )
