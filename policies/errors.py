"""Errors of this app.

PoliciesError
  ImmutableVersion     somebody tried to change or delete a published version
Refusal
  ReviewMissing        the tenant wants a second person to approve first
  DraftMoved           the draft is not, or no longer, where the action needs it
"""

from __future__ import annotations

from controlplane.errors import Refusal


class PoliciesError(Exception):
    """Base of this app's errors."""


class ImmutableVersion(PoliciesError):
    """A published version stays as it is; `version` names it."""

    def __init__(self, version: str) -> None:
        super().__init__(f"policy version {version} is published and stays as it is; publish a new one instead")
        self.version = version


class ReviewMissing(Refusal):
    """Rules are published only after a second person has approved them."""

    def __init__(self) -> None:
        problem = "this tenant publishes a policy only after a second person has approved it"
        super().__init__(problem=problem, fix="Make a draft, propose it, and have somebody else review it")


class DraftMoved(Refusal):
    """The draft is not where the action needs it: published, discarded, or out of date."""
