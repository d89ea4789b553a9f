"""Which agent a token's claims stand for, by the rules of its trust; and why, for people who set the rules up.

Two rules may agree; two agents are one too many, and nobody is let in. Nothing here checks a signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from accounts.errors import BadCredential, NoAgent
from accounts.matching import Condition, parse_condition, text_at, texts_at, why_not
from accounts.models import MAX_GROUPS, Agent, OidcTrust, TrustRule

#: A chain of so many agents that call one another is a loop or an attack.
MAX_ACTORS: Final = 8
#: What a record keeps of a name that a provider chose.
MAX_NAME_CHARACTERS: Final = 254


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What a rule says of some claims: `failed` is in words, and empty when the rule matches."""

    conditions: tuple[str, ...]
    agent: str
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrustVerdict:
    """What a trust makes of some claims. `agent` is the one that they stand for; `problems` says why there is none."""

    trust: str
    agent: str | None
    problems: tuple[str, ...]
    rules: tuple[RuleVerdict, ...]


def find_agent(claims: Mapping[str, Any], trust: OidcTrust) -> Agent:
    """The one active agent that the trust's rules give these claims. Raises `BadCredential`."""
    found = {rule.agent_id: rule.agent for rule in _rules(trust) if not _failed(rule, claims)}
    if not found:
        raise NoAgent("no rule for these claims")
    if len(found) != 1:
        raise BadCredential("rules for several agents match these claims")
    [agent] = found.values()
    if not agent.is_active:
        raise BadCredential("inactive agent")
    agent.tenant = trust.tenant  # as the rules' are; so that nobody asks for it again
    return agent


def explain(claims: Mapping[str, Any], trusts: Iterable[OidcTrust]) -> list[TrustVerdict]:
    """What each of these trusts of one tenant would make of the claims, were they in a token that it accepts."""
    return [_explain(claims, trust) for trust in trusts]


def groups_of(claims: Mapping[str, Any], trust: OidcTrust, agent: Agent) -> tuple[str, ...]:
    """The agent's own groups and those that the trust's claim lists, sorted, no more than an agent may have."""
    claimed = texts_at(claims, trust.groups_claim) if trust.groups_claim else []
    told = [group for group in claimed if 0 < len(group) <= 100]
    return tuple(sorted({*agent.groups, *told[: MAX_GROUPS - len(agent.groups)]}))


def labels_of(claims: Mapping[str, Any], trust: OidcTrust) -> dict[str, str]:
    """What the trust wants kept with the session: the text of each label's claim, or its texts, joined by commas."""
    told = {claim: ", ".join(texts_at(claims, claim)[:20])[:MAX_NAME_CHARACTERS] for claim in trust.label_claims}
    return {claim: text for claim, text in told.items() if text}


def person_of(claims: Mapping[str, Any], trust: OidcTrust) -> str:
    """The person whom the trust's claim names, or "". An address that the provider calls unverified names nobody.

    Addresses are in small letters, as those of people here and in policies: a rule that denies somebody isn't to be
    evaded by how their provider writes them.
    """
    found = text_at(claims, trust.person_claim) if trust.person_claim else None
    is_unverified = trust.person_claim == "email" and claims.get("email_verified", True) is not True
    if not found or is_unverified:
        return ""
    return (found.lower() if "@" in found else found)[:MAX_NAME_CHARACTERS]


def actors_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The chain of the `act` claim (RFC 8693, 4.1), the nearest first, as `actor:<sub>`.

    Raises `BadCredential` for a chain that can't be told: whoever acts must be known.
    """
    actors: list[str] = []
    hop = claims.get("act")
    while hop is not None:
        name = hop.get("sub") if isinstance(hop, dict) else None
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
            raise BadCredential("an actor without a name")
        if len(actors) == MAX_ACTORS:
            raise BadCredential("a chain of too many actors")
        actors.append(f"actor:{name}")
        hop = hop.get("act")
    return tuple(actors)


def _explain(claims: Mapping[str, Any], trust: OidcTrust) -> TrustVerdict:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    problems = []
    if not trust.is_active:
        problems.append("the trust is not active")
    if claims.get("iss") != trust.issuer:
        problems.append(f"iss is not {trust.issuer}")
    if trust.audience not in audiences:
        problems.append(f"aud does not name {trust.audience}")
    rules = [
        RuleVerdict(conditions=tuple(rule.conditions), agent=rule.agent.name, failed=_failed(rule, claims))
        for rule in _rules(trust)
    ]
    agent = None
    try:
        actors_of(claims)
        agent = find_agent(claims, trust).name
    except BadCredential as error:
        problems.append(error.why)
    return TrustVerdict(
        trust=trust.name, agent=None if problems else agent, problems=tuple(problems), rules=tuple(rules)
    )


def _rules(trust: OidcTrust) -> list[TrustRule]:
    return list(TrustRule.objects.filter(trust=trust).select_related("agent"))


def _failed(rule: TrustRule, claims: Mapping[str, Any]) -> tuple[str, ...]:
    conditions: list[Condition] = [parse_condition(line) for line in rule.conditions]
    return tuple(why_not(conditions, claims)) if conditions else ("the rule has no condition",)
