"""Which of many rules speak of somebody on a target: what `scopes` says of one rule, for all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.engine.masks import NO_RULES, PatternMasks, mask_of, union
from policies.engine.model import Rule, Scope
from policies.engine.operation import Target
from policies.engine.patterns import matches_any
from policies.engine.principal import Principal


class SubjectIndex:
    """Of rules, each within its policy's scope. Places are those in the sequence."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = _Scopes(enumerate(rules))
        self._outer = _Scopes((place, rule.within) for place, rule in enumerate(rules) if rule.within is not None)
        self._without_outer = mask_of(place for place, rule in enumerate(rules) if rule.within is None)

    def parties(self, principal: Principal) -> tuple[str, ...]:
        """As `scopes.parties` says it."""
        person = f"person:{principal.on_behalf_of}" if principal.on_behalf_of else ""
        behind = [party for party in (*principal.actors, person) if party and self._is_bound(party)]
        return tuple(dict.fromkeys((principal.name, *behind)))

    def rules_for(self, principal: Principal, party: str, target: Target) -> int:
        """As `scopes.rules_for` says it: the places of the rules."""
        outer = self._outer.taking_in(principal, party, target) | self._without_outer
        return outer and outer & self._rules.taking_in(principal, party, target)

    def _is_bound(self, party: str) -> bool:
        return ":" not in party or bool(self._rules.naming(party) or self._outer.naming(party))


class _Scopes:
    """Scopes by what they ask for, each at its place."""

    def __init__(self, scopes: Iterable[tuple[int, Scope]]) -> None:
        listed = list(scopes)
        self._agents = PatternMasks((place, scope.agents) for place, scope in listed)
        #: Whoever is no agent is named under their prefix, or by `*`.
        self._others: dict[str, PatternMasks] = {}
        prefixed: dict[str, list[tuple[int, list[str]]]] = {}
        anybody: list[int] = []
        for place, scope in listed:
            for pattern in scope.agents:
                prefix, colon, _ = pattern.partition(":")
                if colon:
                    prefixed.setdefault(prefix, []).append((place, [pattern]))
                elif pattern == "*":
                    anybody.append(place)
        self._others = {prefix: PatternMasks(named) for prefix, named in prefixed.items()}
        self._anybody = mask_of(anybody)
        self._groups = PatternMasks((place, scope.groups) for place, scope in listed)
        self._sponsors = PatternMasks((place, scope.sponsors) for place, scope in listed)
        self._targets = PatternMasks((place, scope.targets) for place, scope in listed)
        self._environments = PatternMasks((place, scope.environments) for place, scope in listed)
        self._claims = _by_label((place, scope.claims) for place, scope in listed)
        self._labels = _by_label((place, scope.target_labels) for place, scope in listed)

    def naming(self, party: str) -> int:
        """Those that name somebody who is no agent, other than by `*`."""
        under = self._others.get(party.partition(":")[0])
        return NO_RULES if under is None else under.find(party)

    def taking_in(self, principal: Principal, party: str, target: Target) -> int:
        """Those that ask for nothing that isn't so."""
        agents, groups = self._agents, self._groups
        named = self.naming(party) | self._anybody if ":" in party else agents.find(party)
        known = principal.known_of(party)
        found = agents.unasked | named
        found &= groups.unasked | union(map(groups.find, known.groups))
        for index, name in (
            (self._sponsors, known.sponsor),
            (self._targets, target.name),
            (self._environments, target.environment),
        ):
            found &= index.unasked | index.find(name)
        for labels, asked in ((known.labels, self._claims), (target.labels, self._labels)):
            for (name, pattern), mask in asked.items():
                if found & mask and not matches_any((pattern,), labels.get(name, "")):
                    found &= ~mask
        return found


def _by_label(mappings: Iterable[tuple[int, dict[str, str]]]) -> dict[tuple[str, str], int]:
    """The places by what is asked of a label."""
    asked: dict[tuple[str, str], list[int]] = {}
    for place, mapping in mappings:
        for label in mapping.items():
            asked.setdefault(label, []).append(place)
    return {label: mask_of(having) for label, having in asked.items()}
