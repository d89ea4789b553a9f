"""Errors of this app.

AccountsError
  BadCredential          this proves no agent; `why` is for our log and quotes nothing of the credential
    NoAgent              the token is sound, and no rule gives it an agent
    ProviderUnreachable  the provider's keys can't be had now
  ExpiredCredential      it was good; `expired_at` says until when
  SignInRefused          a person isn't let in; `why` is for our log
"""

from __future__ import annotations

from datetime import datetime


class AccountsError(Exception):
    """Base of this app's errors."""


class BadCredential(AccountsError):
    """What was presented stands for no agent. The text may be shown to whoever presented it."""

    help = "Get a new token for this agent, and present it alone as the password."

    def __init__(self, why: str) -> None:
        super().__init__(f"The credential is not valid here. {self.help}")
        self.why = why


class NoAgent(BadCredential):
    """The token is a sound one of a trust; it may speak for a person, and stands for no agent."""


class ProviderUnreachable(BadCredential):
    """The trust is there, but its provider's keys can't be fetched."""

    help = "The identity provider's keys can't be fetched just now; try again in a minute."


class ExpiredCredential(AccountsError):
    """The credential was good until `expired_at`. The text may be shown."""

    def __init__(self, expired_at: datetime) -> None:
        super().__init__(f"The token expired at {expired_at:%Y-%m-%d %H:%M:%S} UTC. Get a new one and connect again.")
        self.expired_at = expired_at


class SignInRefused(AccountsError):
    """A person can't sign in by this provider. The text may be shown to them; `why` quotes nothing that is secret."""

    def __init__(self, why: str, *, fix: str = "Start again; if it stays so, ask whoever looks after sign-in.") -> None:
        super().__init__(f"You could not be signed in. {fix}")
        self.why = why
