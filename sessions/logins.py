"""Answers a gate that asks by what a database login proves itself. Nothing is told of whether there is such a login."""

from __future__ import annotations

from typing import Final

from django_scopes import scope

from accounts.oauth.limits import seconds_to_wait_of
from accounts.oauth.logins import verifier_of
from proxyworker.contract import LoginVerifier, RefusalCode, Refused, RequestVerifier, Secret
from sessions.ingest import LinkedWorker

_HELP_BUSY: Final = "Too many logins from this address; try again in a minute."


def offer_verifier(worker: LinkedWorker, frame: RequestVerifier) -> LoginVerifier | Refused:
    """The verifier, or a refusal of whoever asks too often. A cache that is down raises: nobody asks uncounted."""
    host = frame.client_address.rpartition(":")[0]
    if seconds_to_wait_of(f"{worker.tenant_id}:{host}", "database-login"):
        reason = "too many logins"
        return Refused(request_id=frame.request_id, code=RefusalCode.BUSY, reason=reason, help=_HELP_BUSY)
    with scope(tenant=worker.tenant_id):
        return LoginVerifier(request_id=frame.request_id, verifier=Secret(verifier_of(frame.login)))
