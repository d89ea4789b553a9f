"""Who is asking, and for which target: questions to the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxyworker.contract import MAX_CREDENTIAL_BYTES, RefusalCode, Secret, SessionGrant, TlsFacts
from proxyworker.errors import LinkUnavailable, SessionRefused
from proxyworker.gate.errors import NotAdmitted

if TYPE_CHECKING:
    from proxyworker.gate.services import Services


async def identify(
    services: Services,
    *,
    protocol: str,
    target: str,
    credential: bytes,
    client_address: str,
    client_name: str,
    tls: TlsFacts,
) -> SessionGrant:
    """Turn a presented credential into a grant. Raises `NotAdmitted`, with words for the agent."""
    if services.journal.failed is not None:
        raise NotAdmitted(
            RefusalCode.UNAVAILABLE,
            "the gate cannot keep its record, so nothing may run",
            "Tell an administrator: the worker's journal has failed. Retrying will not help until it is repaired.",
        )
    if not credential or len(credential) > MAX_CREDENTIAL_BYTES or not credential.isascii():
        raise NotAdmitted(
            RefusalCode.BAD_CREDENTIAL,
            "the password is not a Narrowgate token",
            "Use an agent token, or an OIDC token of your tenant's provider, as the password.",
        )
    with _refusals_in_words():
        return await services.link.open_session(
            protocol=protocol,
            target=target,
            credential=Secret(credential.decode("ascii")),
            client_address=client_address,
            client_name=client_name,
            tls=tls,
        )


async def verifier_of(services: Services, login: str, *, client_address: str) -> str:
    """By what a database login proves itself, in PostgreSQL's form. Raises `NotAdmitted`, with words for the agent."""
    with _refusals_in_words():
        return (await services.link.verifier_of(login, client_address=client_address)).value


@contextmanager
def _refusals_in_words() -> Iterator[None]:
    try:
        yield
    except SessionRefused as error:
        refused = error.refused
        raise NotAdmitted(refused.code, refused.reason, refused.help) from error
    except LinkUnavailable as error:
        raise NotAdmitted(
            RefusalCode.UNAVAILABLE,
            "the gate has lost its control plane, so it opens no new sessions",
            "Try again in a few seconds.",
        ) from error
