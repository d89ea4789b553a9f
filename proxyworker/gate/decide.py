"""Whether an operation may pass: the policy engine, its answer kept while nothing that it depends on changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from policies.engine import SessionPolicy, Target

if TYPE_CHECKING:
    from policies.engine import Decision, Policy
    from proxyworker.contract import SessionGrant


class Decider:
    """Decisions for one session.

    Today's rules speak of agents and targets alone, so one decision holds for a session until its policy changes.
    """

    def __init__(self, grant: SessionGrant) -> None:
        self._grant = grant
        self._decision = self._decide(grant.policy)

    def decide(self) -> Decision:
        """The decision on the session's next operation."""
        return self._decision

    def use_policy(self, policy: Policy) -> None:
        """Decide by this version from the next operation on."""
        self._decision = self._decide(policy)

    def _decide(self, policy: Policy) -> Decision:
        endpoint = self._grant.target
        target = Target(
            name=endpoint.name,
            protocol=endpoint.protocol,
            environment=endpoint.environment,
            labels=endpoint.labels,
        )
        return SessionPolicy(policy, principal=self._grant.principal, target=target).admits(now=time.time())
