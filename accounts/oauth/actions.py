"""What changes clients, service tokens and what the endpoint issues. Administrative changes have their ledger entry.

A token that the endpoint issues is a row that says what it was made from, and no entry: there may be thousands an hour,
and a session that one opens is on record with it. Logins and certificates, which live outside of us, are entered.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import asyncssh
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django_scopes import scope

from accounts.actions import revoke_agent_token
from accounts.models import Agent, AgentToken, ServicePurpose, ServiceToken, Tenant, TokenKind, User
from accounts.oauth.clients import usable_keys
from accounts.oauth.exchange import Entitlement
from accounts.oauth.logins import make_verifier
from accounts.oauth.models import ClientAuthentication, OAuthClient, SshAuthority, UsedAssertion
from accounts.oauth.wire import OAuthError
from accounts.sources import made_from
from accounts.tokens import AGENT_PREFIX, ID_BYTES, SECRET_PREFIX, SERVICE_PREFIX, NewToken, make_token
from controlplane.errors import Refusal
from controlplane.keyring import open_sealed, seal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import save_recorded, subject_of
from controlplane.tenancy import every_tenant

MAX_SERVICE_TOKEN_LIFETIME: Final = timedelta(days=366)
DEFAULT_SERVICE_TOKEN_LIFETIME: Final = timedelta(days=180)
#: Before the login's id in the user name, by which the PostgreSQL gate knows one.
LOGIN_USER_PREFIX: Final = "ng_"
MAX_PUBLIC_KEY_CHARACTERS: Final = 4_096

_CLIENT_FIELDS: Final = ("agent", "client_id", "label", "authentication", "is_active")


# ---------------------------------------------------------------- clients


def save_client(client: OAuthClient, *, acting_user: User | None) -> OAuthClient:
    """Change a client. Deactivated, it gets no tokens, and those it got end."""
    with transaction.atomic(), scope(tenant=client.tenant_id):
        save_recorded(client, acting_user=acting_user, noun="oauth_client", fields=_CLIENT_FIELDS)
        if not client.is_active:
            for token in AgentToken.objects.filter(
                made_from(client=client), revoked_at=None, expires_at__gt=timezone.now()
            ):
                revoke_agent_token(token, acting_user=acting_user)
    return client


@transaction.atomic
def make_client(
    agent: Agent, *, acting_user: User | None, label: str = "", public_keys: Iterable[Any] | None = None
) -> tuple[OAuthClient, NewToken | None]:
    """A new client of an active agent: with public keys it signs assertions, else it has a secret, shown now.

    Raises `Refusal` for an inactive agent, ValidationError for keys that can't be used.
    """
    if not (agent.is_active and agent.tenant.is_active):
        raise Refusal(problem=f"agent {agent.name} is not active", fix="Activate it first", field="agent")
    client = OAuthClient(
        tenant=agent.tenant,
        agent=agent,
        label=label,
        client_id=f"ngc_{secrets.token_hex(8)}",
        authentication=ClientAuthentication.CLIENT_SECRET,
    )
    made = None
    if public_keys is None:
        made = make_token(SECRET_PREFIX)
        client.digest = made.digest
    else:
        client.authentication = ClientAuthentication.PRIVATE_KEY_JWT
        client.public_keys = list(public_keys)
        try:
            usable_keys(client.public_keys)
        except ValueError as error:
            raise ValidationError({"public_keys": f"This can't be used: {error}."}) from None
    return save_client(client, acting_user=acting_user), made


@transaction.atomic
def issue_service_token(
    tenant: Tenant,
    *,
    purpose: ServicePurpose,
    acting_user: User | None,
    lifetime: timedelta = DEFAULT_SERVICE_TOKEN_LIFETIME,
    label: str = "",
) -> tuple[ServiceToken, NewToken]:
    """A new token for a machine that serves the tenant. Its text is in the second value and nowhere else."""
    if not timedelta(minutes=1) <= lifetime <= MAX_SERVICE_TOKEN_LIFETIME:
        raise ValidationError({"lifetime_seconds": "Use a minute to 366 days."})
    made = make_token(SERVICE_PREFIX)
    token = ServiceToken(
        tenant=tenant,
        purpose=purpose,
        label=label,
        token_id=made.token_id,
        digest=made.digest,
        expires_at=timezone.now() + lifetime,
    )
    with scope(tenant=tenant.pk):
        token.full_clean()
        token.save()
        _tell(token, "service_token.issued", acting_user=acting_user, after={"purpose": purpose, "label": label})
    return token, made


@transaction.atomic
def revoke_service_token(token: ServiceToken, *, acting_user: User | None) -> ServiceToken:
    """End it now. Again does nothing."""
    with scope(tenant=token.tenant_id):
        changed = ServiceToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        token.refresh_from_db()
        if changed:
            _tell(token, "service_token.revoked", acting_user=acting_user, after={"purpose": token.purpose})
    return token


# ---------------------------------------------------------------- what the endpoint issues


def issue_access_token(entitled: Entitlement, *, now: datetime) -> tuple[AgentToken, str]:
    """The row and the token's text."""
    made = make_token(AGENT_PREFIX)
    token = _keep(entitled, token_id=made.token_id, digest=made.digest, kind=TokenKind.EXCHANGED, now=now)
    return token, made.text


@transaction.atomic
def issue_database_login(entitled: Entitlement, *, now: datetime) -> tuple[AgentToken, str, str]:
    """The row, a user name and its password. Only a SCRAM verifier is kept, in PostgreSQL's form."""
    login, password = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(24)
    verifier, stored_key = make_verifier(login, password)
    token = _keep(
        entitled,
        token_id=login,
        digest=stored_key,
        kind=TokenKind.DATABASE_LOGIN,
        now=now,
        scram_verifier=verifier,
    )
    with scope(tenant=token.tenant_id):
        _tell(token, "database_login.issued", acting_user=None, after={"expires_at": token.expires_at})
    return token, f"{LOGIN_USER_PREFIX}{login}", password


@transaction.atomic
def issue_ssh_certificate(entitled: Entitlement, *, public_key: str, now: datetime) -> tuple[AgentToken, str]:
    """The row and a user certificate for that key, whose principals are the targets. Raises `OAuthError`."""
    if entitled.targets is None:
        raise OAuthError("invalid_target", "a certificate names its targets: send resource or scope")
    try:
        if len(public_key) > MAX_PUBLIC_KEY_CHARACTERS:
            raise asyncssh.KeyImportError("too long")
        user_key = asyncssh.import_public_key(public_key)
    except (asyncssh.KeyImportError, ValueError):
        raise OAuthError("invalid_request", "public_key is no OpenSSH public key") from None
    token_id = secrets.token_hex(8)
    # The certificate's own text proves nothing to us: its holder proves the key. The digest only fills the column.
    token = _keep(entitled, token_id=token_id, digest=secrets.token_hex(32), kind=TokenKind.SSH_CERTIFICATE, now=now)
    certificate = _authority_key(entitled.agent.tenant).generate_user_certificate(
        user_key,
        f"{entitled.agent.name}/{token_id}",
        serial=int(token_id, 16),
        principals=list(entitled.targets),
        valid_after=int(now.timestamp()) - 30,
        valid_before=int(token.expires_at.timestamp()),
        permit_x11_forwarding=False,
        permit_agent_forwarding=False,
        permit_user_rc=False,
    )
    with scope(tenant=token.tenant_id):
        after = {"expires_at": token.expires_at, "targets": token.targets, "key": user_key.get_fingerprint()}
        _tell(token, "ssh_certificate.issued", acting_user=None, after=after)
    return token, certificate.export_certificate("openssh").decode().strip()


def ssh_authority(tenant: Tenant) -> SshAuthority:
    """The tenant's authority, made when it is first needed. Its public half is what targets trust."""
    with transaction.atomic(), scope(tenant=tenant.pk):
        found = SshAuthority.objects.filter(tenant=tenant).first()
        if found is not None:
            return found
        key = asyncssh.generate_private_key("ssh-ed25519", comment=f"narrowgate {tenant.slug}")
        authority = SshAuthority(tenant=tenant, public_key=key.export_public_key("openssh").decode().strip())
        authority.sealed_key = seal(key.export_private_key("openssh"), context=_context(authority))
        made = SshAuthority.objects.bulk_create([authority], ignore_conflicts=True)  # the first of two at once wins
        kept: SshAuthority = SshAuthority.objects.get(tenant=tenant)
        if kept.pk == made[0].pk:
            subject = f"ssh_authority:{tenant.slug}"
            append_entry(
                tenant=tenant,
                kind="ssh_authority.created",
                acting_user=None,
                subject=subject,
                before=None,
                after={"public_key": kept.public_key},
            )
        return kept


def forget_assertions(*, now: datetime) -> int:
    """Delete the used assertions that have expired; returns how many."""
    with every_tenant():
        count: int = UsedAssertion.objects.filter(expires_at__lt=now).delete()[0]
    return count


def _authority_key(tenant: Tenant) -> asyncssh.SSHKey:
    authority = ssh_authority(tenant)
    return asyncssh.import_private_key(open_sealed(authority.sealed_key, context=_context(authority)).decode())


def _context(authority: SshAuthority) -> str:
    return f"accounts.sshauthority:{authority.pk}"


def _keep(
    entitled: Entitlement, *, token_id: str, digest: str, kind: TokenKind, now: datetime, scram_verifier: str = ""
) -> AgentToken:
    """The row, in the scope that the caller holds: another one here would be two questions more for each token."""
    if entitled.expires_at <= now:
        raise OAuthError("invalid_grant", "what was presented has expired")
    token: AgentToken = AgentToken.objects.create(
        tenant_id=entitled.agent.tenant_id,
        agent=entitled.agent,
        kind=kind,
        label="token endpoint",
        token_id=token_id,
        digest=digest,
        expires_at=entitled.expires_at,
        targets=None if entitled.targets is None else list(entitled.targets),
        carried=dict(entitled.carried),
        trust=entitled.trust,
        client=entitled.client,
        parent=entitled.parent,
        scram_verifier=scram_verifier,
    )
    return token


def _tell(token: Any, kind: str, *, acting_user: User | None, after: dict[str, Any]) -> None:
    subject = subject_of(kind.partition(".")[0], token)
    append_entry(tenant=token.tenant, kind=kind, acting_user=acting_user, subject=subject, before=None, after=after)
