"""Errors of approvals. What a person can mend is a `controlplane.errors.Refusal`.

AskRefused     an operation that needs an approval can't have one; `reason` and `help` may be shown to the agent
"""

from __future__ import annotations

from policies.errors import PoliciesError


class AskRefused(PoliciesError):
    """No request is made. `is_busy`: later, there may be one."""

    def __init__(self, reason: str, help: str, *, is_busy: bool = False) -> None:  # noqa: A002  # the contract's word
        super().__init__(reason)
        self.reason = reason
        self.help = help
        self.is_busy = is_busy
