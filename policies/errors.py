"""Errors of this app.

PoliciesError
  ImmutableVersion     somebody tried to change or delete a published version
"""

from __future__ import annotations


class PoliciesError(Exception):
    """Base of this app's errors."""


class ImmutableVersion(PoliciesError):
    """A published version stays as it is; `version` names it."""

    def __init__(self, version: str) -> None:
        super().__init__(f"policy version {version} is published and stays as it is; publish a new one instead")
        self.version = version
