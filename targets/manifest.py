"""The kinds of documents for `manage.py apply`: Target, Credential, ColumnLabels, JoinToken.

kind: Target
tenant: acme
name: shop
host: db.acme.internal
database: shop
ca: {file: ca.pem}

kind: Credential
tenant: acme
target: shop
username: gate
secret: {env: SHOP_PASSWORD}

kind: ColumnLabels
tenant: acme
target: shop
columns:
  - {table: customers, column: email, labels: [email, pii]}

kind: JoinToken
tenant: acme
worker: edge-1
file: join-token
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from accounts.tokens import parse_token
from controlplane.apply.kinds import (
    HIDDEN,
    Applying,
    Change,
    Document,
    DocumentError,
    Kind,
    SecretSource,
    TenantDocument,
    bring_about,
)
from targets import actions
from targets.access import open_secret
from targets.files import write_private
from targets.models import ColumnLabel, Credential, JoinToken, LabelSource, Protocol, ProxyWorker, Target, TlsCheck


class TargetFields(TenantDocument, frozen=True, kw_only=True):
    """A target, by tenant and name. `ca` is a PEM file; left out, the worker's system knows whom to trust."""

    name: str
    protocol: str = Protocol.POSTGRES.value
    host: str
    port: int = 5432
    database: str
    tls_mode: str = TlsCheck.VERIFY_FULL.value
    ca: SecretSource | None = None
    labels: dict[str, str] = {}
    environment: str = ""
    is_active: bool = True


class CredentialFields(TenantDocument, frozen=True, kw_only=True):
    """The credential of a target."""

    target: str
    username: str
    secret: SecretSource


class LabelledColumn(Document, frozen=True, kw_only=True):
    """A column, by the target's own names, and what it holds."""

    schema: str = "public"
    table: str
    column: str
    labels: list[str]


class ColumnLabelsFields(TenantDocument, frozen=True, kw_only=True):
    """All that people say of the columns of a target: what isn't listed is removed."""

    target: str
    columns: list[LabelledColumn]


class JoinTokenFields(TenantDocument, frozen=True, kw_only=True):
    """A join token in `file` (mode 0600; relative to the YAML file), until a worker of that name has enrolled."""

    worker: str
    file: str
    lifetime_seconds: int = int(actions.DEFAULT_JOIN_TOKEN_LIFETIME.total_seconds())


class TargetKind:
    """Targets."""

    name: Final = "Target"
    rank: Final = 40
    document: Final = TargetFields

    def apply(self, wanted: TargetFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        fields = ("name", "protocol", "host", "port", "database", "tls_mode", "labels", "environment", "is_active")
        ca_pem = "" if wanted.ca is None else applying.secret(wanted.ca, field="ca")
        return bring_about(
            Target.objects.filter(name=wanted.name).first(),
            lambda: Target(tenant=applying.tenant),
            values={**{field: getattr(wanted, field) for field in fields}, "ca_pem": ca_pem},
            save=partial(actions.save_target, acting_user=None),
        )


class CredentialKind:
    """Credentials, one for each target."""

    name: Final = "Credential"
    rank: Final = 50
    document: Final = CredentialFields

    def apply(self, wanted: CredentialFields, *, applying: Applying) -> Change | None:
        """By target. The secret is set when it isn't that one already."""
        target = Target.objects.filter(name=wanted.target).first()
        if target is None:
            fix = "Name one that exists, or add a document of kind Target"
            raise DocumentError("target", f"there is no target {wanted.target!r}", fix)
        secret = applying.secret(wanted.secret, field="secret")
        credential = Credential.objects.filter(target=target).first()
        is_kept = credential is not None and open_secret(credential) == secret
        if credential is not None and is_kept and credential.username == wanted.username:
            return None
        verb = "create" if credential is None else "change"
        credential = credential or Credential(tenant=applying.tenant, target=target)
        fields: dict[str, tuple[Any, Any]] = {}
        if credential.username != wanted.username:
            fields["username"] = (credential.username or None, wanted.username)
        if not is_kept:
            fields["secret"] = (None, HIDDEN)
        credential.username = wanted.username
        actions.save_credential(credential, secret="" if is_kept else secret, acting_user=None)
        return Change(verb=verb, name=str(credential), fields=fields)


class ColumnLabelsKind:
    """What columns hold, for each target together."""

    name: Final = "ColumnLabels"
    rank: Final = 50
    document: Final = ColumnLabelsFields

    def apply(self, wanted: ColumnLabelsFields, *, applying: Applying) -> Change | None:
        """By target. What discovery has found stays."""
        target = Target.objects.filter(name=wanted.target).first()
        if target is None:
            raise DocumentError(
                "target", f"there is no target {wanted.target!r}", "Declare it in this file, or create it"
            )
        there = {
            (row.schema, row.table, row.column, row.label): row
            for row in ColumnLabel.objects.filter(target=target, source=LabelSource.PERSON)
        }
        listed = dict.fromkeys(
            (one.schema, one.table, one.column, label) for one in wanted.columns for label in one.labels
        )
        fields: dict[str, tuple[Any, Any]] = {}
        for key, row in there.items():
            if key not in listed:
                fields[_say_column(key)] = (key[3], None)
                actions.remove_column_label(row, acting_user=None)
        for key in listed:
            if key not in there:
                fields[_say_column(key)] = (None, key[3])
                schema, table, column, label = key
                made = ColumnLabel(
                    tenant=applying.tenant, target=target, schema=schema, table=table, column=column, label=label
                )
                actions.add_column_label(made, acting_user=None)
        return Change(verb="change" if there else "create", name=str(target), fields=fields) if fields else None


def _say_column(key: tuple[str, str, str, str]) -> str:
    schema, table, column, label = key
    return f"{schema}.{table}.{column} {label}"


class JoinTokenKind:
    """Join tokens in files, for workers that start by themselves."""

    name: Final = "JoinToken"
    rank: Final = 60
    document: Final = JoinTokenFields

    def apply(self, wanted: JoinTokenFields, *, applying: Applying) -> Change | None:
        """Nothing while a worker of that name is enrolled, or the file holds a token that is good for it."""
        path = applying.folder / wanted.file
        if ProxyWorker.objects.filter(name=wanted.worker).exists() or _is_good(path, worker_name=wanted.worker):
            return None
        if applying.tenant is None:
            raise AssertionError("a tenant's document is applied in its tenant")
        token, text = actions.issue_join_token(
            tenant=applying.tenant,
            worker_name=wanted.worker,
            lifetime=timedelta(seconds=wanted.lifetime_seconds),
            acting_user=None,
        )
        transaction.on_commit(_writing(path, text))
        fields = {"file": (None, str(path)), "expires_at": (None, f"{token.expires_at:%Y-%m-%d %H:%M} UTC")}
        return Change(verb="create", name=f"for worker {wanted.worker}", fields=fields)


KINDS: Final[tuple[Kind, ...]] = (TargetKind(), CredentialKind(), ColumnLabelsKind(), JoinTokenKind())


def _is_good(path: Path, *, worker_name: str) -> bool:
    """True when the file holds an unused join token of that name."""
    try:
        with path.open() as file:
            text = file.read(actions.MAX_JOIN_TOKEN_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError):
        return False
    presented = parse_token(text, prefix=actions.JOIN_TOKEN_PREFIX)
    if presented is None:
        return False
    good = JoinToken.objects.filter(token_id=presented.token_id, worker_name=worker_name)
    token = good.filter(last_used_at=None, revoked_at=None, expires_at__gt=timezone.now()).first()
    return token is not None and presented.matches(token.digest)


def _writing(path: Path, text: str) -> Callable[[], None]:
    return lambda: write_private(path, f"{text}\n")
