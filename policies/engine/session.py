"""How a policy is applied: pure, total, default deny.

The order of rules never matters: a matching deny wins over a required approval, which wins over a matching allow, and
no match is a deny. An operation is as good as its worst access, for each of the parties behind it. `deciding` says how
one operation is decided on.
"""

from __future__ import annotations

from typing import Final

from policies.engine.conditions import Scene
from policies.engine.deciding import Bound, Deciding, Party
from policies.engine.decision import DEFAULT_DENY, Decision
from policies.engine.index import index_of
from policies.engine.masks import first_place, union
from policies.engine.model import Effect, Policy
from policies.engine.operation import Operation, Target
from policies.engine.principal import Principal
from policies.engine.words import RETRYING, noun

#: Names, and pieces of texts, that the cache of decisions holds; then it starts anew. With literals in a text every
#: text is new, while what it touches repeats.
MAX_CACHED_PIECES: Final = 50_000
#: One decision may not push out all others.
MAX_PIECES: Final = MAX_CACHED_PIECES // 10
_PIECE_CHARACTERS: Final = 64


class SessionPolicy:
    """A policy for one principal on one target: what can be told before any operation is known is told once."""

    def __init__(self, policy: Policy, *, principal: Principal, target: Target) -> None:
        self._policy = policy
        self._index = index = index_of(policy)
        self._bound = Bound(
            version=policy.version,
            target=target,
            scene=Scene(principal, target),
            index=index,
            parties=tuple(
                Party(name, index.subjects.rules_for(principal, name, target))
                for name in index.subjects.parties(principal)
            ),
            answers={},
        )
        in_scope = union(party.rules for party in self._bound.parties)
        #: The windows to look at.
        self._windowed = in_scope & index.windowed
        self._are_open = index.all
        self._minute: int | None = None
        self._cache = _Cache()

    @property
    def version(self) -> str:
        """The policy's."""
        return self._policy.version

    @property
    def hides_columns(self) -> bool:
        """Whether a rule of the policy speaks of columns or rows, for whomever."""
        return self._index.hides_columns

    def admits(self, *, now: float) -> Decision:  # noqa: ARG002 - windows are asked with each operation
        """Whether a session may start: some rule could allow something, and no rule denies everything. Never raises."""
        try:
            admitted = [self._admit(party) for party in self._bound.parties]
        except Exception as error:  # noqa: BLE001 - total: what fails is a deny
            return self._failed(error)
        return next((decision for decision in admitted if decision.effect is Effect.DENY), admitted[0])

    def decide(self, operation: Operation, *, now: float, text: str = "") -> Decision:
        """Decide on an operation at `now` (seconds since the epoch). Never raises: what fails is a deny."""
        try:
            if self._windowed:
                self._turn_to(int(now // 60))
            known = self._cache.find(operation, text)
            if known is not None:
                return known
            deciding = Deciding(self._bound, operation, are_open=self._are_open, now=now, text=text)
            decision = deciding.decide()
            if not deciding.read_time:
                self._cache.keep(operation, text if deciding.read_text else None, decision)
        except Exception as error:  # noqa: BLE001 - total: what fails is a deny
            return self._failed(error)
        return decision

    def _turn_to(self, minute: int) -> None:
        """Windows open and close at full minutes; what was decided holds while none of them did."""
        if minute == self._minute:
            return
        are_open = self._index.open_at(minute)
        if (are_open ^ self._are_open) & self._windowed:
            self._cache.clear()
        self._are_open = are_open
        self._minute = minute

    def _admit(self, party: Party) -> Decision:
        index = self._index
        denying = party.rules & index.denies_everything
        if denying:
            rule = index.ready[first_place(denying)].rule
            reason = f"rule {rule.name!r} denies {party.name} on {self._bound.target.name}"
            return self._decision(Effect.DENY, rule.name, rule.reason or reason, RETRYING)
        admitting = party.rules & index.covering
        if admitting:
            rule = index.ready[first_place(admitting)].rule
            return self._decision(Effect.ALLOW, rule.name, rule.reason or f"rule {rule.name!r} allows it")
        target = self._bound.target.name
        return self._decision(
            Effect.DENY,
            DEFAULT_DENY,
            f"no rule allows {party.name} on {target}",
            f"Ask an administrator for a policy rule that allows {noun(party.name)} on target {target}.",
        )

    def _decision(self, effect: Effect, rule: str, reason: str, what_helps: str = "") -> Decision:
        return Decision(effect=effect, policy_version=self._policy.version, rule=rule, reason=reason, help=what_helps)

    def _failed(self, error: Exception) -> Decision:
        reason = f"the policy could not be applied: {type(error).__name__}"
        return self._decision(Effect.DENY, DEFAULT_DENY, reason, "Ask an administrator; retrying will not help.")


class _Cache:
    """Decisions by the operation's facts; by the text too, where a condition read it. Bounded by what it holds."""

    __slots__ = ("_by_facts", "_by_text", "_pieces")

    def __init__(self) -> None:
        #: None: look by text.
        self._by_facts: dict[Operation, Decision | None] = {}
        self._by_text: dict[tuple[Operation, str], Decision] = {}
        self._pieces = 0

    def find(self, operation: Operation, text: str) -> Decision | None:
        """What was decided."""
        try:
            known = self._by_facts[operation]
        except KeyError:
            return None
        return known if known is not None else self._by_text.get((operation, text))

    def keep(self, operation: Operation, text: str | None, decision: Decision) -> None:
        """For the next time. `text` None: whatever the text."""
        pieces = 1 + sum(1 + len(access.columns) for access in operation.accesses)
        pieces += 0 if text is None else 1 + len(text) // _PIECE_CHARACTERS
        if pieces > MAX_PIECES:
            return
        if self._pieces + pieces > MAX_CACHED_PIECES:
            self.clear()
        self._pieces += pieces
        self._by_facts[operation] = None if text is not None else decision
        if text is not None:
            self._by_text[operation, text] = decision

    def clear(self) -> None:
        """Forget all."""
        self._by_facts.clear()
        self._by_text.clear()
        self._pieces = 0
