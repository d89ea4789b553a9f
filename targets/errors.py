"""Errors of this app.

TargetsError
  BadJoinToken         a join token that lets nobody enrol: unknown, used, revoked, expired, or for another name
"""

from __future__ import annotations


class TargetsError(Exception):
    """Base of this app's errors."""


class BadJoinToken(TargetsError):
    """Says nothing of why: whoever shows the token may be anybody."""
