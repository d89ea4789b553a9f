"""Whether an operation may pass: the policy engine, its answers kept while nothing that they depend on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from policies.engine import Effect, SessionPolicy, Target

if TYPE_CHECKING:
    from policies.engine import Decision, Obligation, Operation, Policy
    from proxyworker.contract import SessionGrant

#: A decision is kept this long: what a rule says of times holds at most so much late.
KEPT_SECONDS: Final = 1.0
#: Texts of one session whose decision is kept; with literals in the text every statement is new.
KEPT_DECISIONS: Final = 256
#: A longer text is decided on each time: it would keep more memory than the decision takes time.
MAX_KEPT_TEXT_BYTES: Final = 8 * 1024


class Decider:
    """Decisions for one session. `clock` gives seconds since the epoch."""

    def __init__(self, grant: SessionGrant, clock: Callable[[], float]) -> None:
        self._grant = grant
        self._clock = clock
        self._kept: dict[bytes, tuple[Operation, Decision]] = {}
        self._kept_until = 0.0
        self.use_policy(grant.policy)

    def use_policy(self, policy: Policy) -> None:
        """Decide by this version from the next operation on."""
        endpoint = self._grant.target
        target = Target(
            name=endpoint.name, protocol=endpoint.protocol, environment=endpoint.environment, labels=endpoint.labels
        )
        self._policy = SessionPolicy(policy, principal=self._grant.principal, target=target)
        self._kept.clear()
        #: Whether some rule speaks of columns: then no error may show a whole row.
        self.hides_columns = self._policy.hides_columns

    def session(self) -> Decision:
        """The decision on the session itself, for what is no operation of its own, such as a cancel request."""
        return self._policy.admits(now=self._clock())

    def decide(self, operation: Operation, text: bytes) -> Decision:
        """The decision on an operation with this text."""
        now = self._clock()
        if now >= self._kept_until:
            self._kept.clear()
            self._kept_until = now + KEPT_SECONDS
        kept = self._kept.get(text)
        # The same text may stand for another operation: `PREPARE …` as such, and when it is executed.
        if kept is not None and kept[0] is operation:
            return kept[1]
        decision = _feasible(self._policy.decide(operation, now=now, text=text.decode("utf-8", "backslashreplace")))
        if len(text) <= MAX_KEPT_TEXT_BYTES and (kept is not None or len(self._kept) < KEPT_DECISIONS):
            self._kept[text] = operation, decision
        return decision


def _feasible(decision: Decision) -> Decision:
    """Deny what may only pass masked or filtered: this gate can do neither yet."""
    if decision.effect is Effect.DENY:
        return decision
    for obligation in decision.obligations:
        if obligation.mask is not None or obligation.filter:
            return msgspec.structs.replace(
                decision,
                effect=Effect.DENY,
                rule=obligation.rule,
                reason=_infeasible(obligation),
                help="Leave it out of the statement." if obligation.mask is not None else "",
                approval=None,
                obligations=(),
            )
    return decision


def _infeasible(obligation: Obligation) -> str:
    where = f" of {obligation.object}" if obligation.object else ""
    if obligation.mask is None:
        return f"rule {obligation.rule!r} lets you see only some rows{where}, and this gate can't filter rows yet"
    columns = ", ".join(obligation.columns) or "*"
    what = f"column {columns}" if len(obligation.columns) == 1 and columns != "*" else f"columns {columns}"
    is_masked = "is" if what.startswith("column ") else "are"
    return f"{what}{where} {is_masked} masked for you by rule {obligation.rule!r}, and this gate can't mask yet"
