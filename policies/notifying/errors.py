"""Errors of notifying.

NotifyingError
  AppendOnlyRow        somebody tried to change or delete what is append-only
  DeliveryFailed       a message didn't arrive; may be tried again
  BadCallback          a callback that isn't signed as it must be, is too old, or was seen before
"""

from __future__ import annotations


class NotifyingError(Exception):
    """Base of these errors."""


class AppendOnlyRow(NotifyingError):
    """`what` is never changed or deleted."""

    def __init__(self, what: str) -> None:
        super().__init__(f"a {what} is append-only")
        self.what = what


class DeliveryFailed(NotifyingError):
    """A message didn't arrive. `status` is HTTP's, or 0. `is_final`: trying again would not help.

    `answer` is the peer's, cut, or the kind of error. `retry_after_seconds`: when the peer said so.
    """

    def __init__(
        self, answer: str, *, status: int = 0, is_final: bool = False, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(answer)
        self.answer = answer
        self.status = status
        self.is_final = is_final
        self.retry_after_seconds = retry_after_seconds


class BadCallback(NotifyingError):
    """A callback that nothing is done for; the text is for the log."""
