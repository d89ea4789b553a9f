"""Appending to the ledger: the only way into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models, transaction
from django.utils import timezone
from django_scopes import scope

from controlplane.ledger.errors import SecretInLedger
from controlplane.ledger.models import LedgerEntry, LedgerHead
from controlplane.origin import current_origin

#: The first entry's predecessor.
GENESIS: Final = bytes(32)
#: Version of the form that is digested.
DIGEST_CONTEXT: Final = b"narrowgate ledger v2\x00"
#: That of entries from before they said where from; only those have no channel.
FIRST_DIGEST_CONTEXT: Final = b"narrowgate ledger v1\x00"
#: Names of fields that hold secrets; such a field may say only whether it is set or that it changed.
SECRET_FIELDS: Final = frozenset({"password", "secret", "token", "digest", "private_key", "sealed_secret"})
SYSTEM: Final = "system"


def append_entry(
    *,
    tenant: models.Model,
    kind: str,
    acting_user: AbstractBaseUser | None,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> LedgerEntry:
    """Append an entry to the tenant's ledger, in the caller's transaction.

    `acting_user` None is the system. `before` and `after` are what the object said, as JSON; None means that it was not
    there. Raises `SecretInLedger` when either has a text under a secret's name, and TransactionManagementError outside
    a transaction: an entry without its change, or a change without its entry, must not be.
    """
    for state in (before, after):
        _refuse_secrets(state)
    with scope(tenant=tenant.pk):
        return _append(
            tenant, kind=kind, acting_user=acting_user, subject=subject, before=_plain(before), after=_plain(after)
        )


def _append(
    tenant: models.Model,
    *,
    kind: str,
    acting_user: AbstractBaseUser | None,
    subject: str,
    before: Any,
    after: Any,
) -> LedgerEntry:
    head = _locked_head(tenant)
    origin = current_origin()
    entry = LedgerEntry(
        tenant_id=tenant.pk,
        seq=head.seq + 1,
        at=timezone.now(),
        kind=kind,
        actor=str(acting_user) if acting_user else SYSTEM,
        actor_user_id=acting_user.pk if acting_user else None,
        subject=subject[:254],
        channel=origin.channel.value,
        address=origin.address,
        before=before,
        after=after,
    )
    entry.digest = digest_of(entry, previous=bytes(head.digest))
    entry.save(force_insert=True)
    head.seq, head.digest = entry.seq, entry.digest
    head.save(update_fields=("seq", "digest"))
    return entry


def digest_of(entry: LedgerEntry, *, previous: bytes) -> bytes:
    """SHA-256 over the digest before it and the entry as canonical JSON (sorted keys, no blanks, UTF-8)."""
    fields: dict[str, Any] = {
        "tenant": str(entry.tenant_id),
        "seq": entry.seq,
        "at": _microseconds(entry.at),
        "kind": entry.kind,
        "actor": entry.actor,
        "actor_user": str(entry.actor_user_id) if entry.actor_user_id else None,
        "subject": entry.subject,
        "before": entry.before,
        "after": entry.after,
    }
    context = FIRST_DIGEST_CONTEXT
    if entry.channel:
        context = DIGEST_CONTEXT
        fields |= {"channel": entry.channel, "address": entry.address}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(context + previous + canonical.encode()).digest()


def first_break(tenant_id: UUID) -> int | None:
    """The seq of the first entry that isn't what was appended there; None when the chain holds up to its head."""
    previous, seq = GENESIS, 0
    with scope(tenant=tenant_id):
        for entry in LedgerEntry.objects.order_by("seq").iterator(chunk_size=1_000):
            seq += 1
            if entry.seq != seq or digest_of(entry, previous=previous) != bytes(entry.digest):
                return seq
            previous = bytes(entry.digest)
        head = LedgerHead.objects.filter(pk=tenant_id).first()
    return None if head is None or (head.seq, bytes(head.digest)) == (seq, previous) else seq + 1


def _locked_head(tenant: models.Model) -> LedgerHead:
    """The tenant's head under a row lock, made when it is missing."""
    heads = LedgerHead.objects.select_for_update()
    head = heads.filter(pk=tenant.pk).first()
    if head is None:
        with transaction.atomic():  # two first entries at once: the second waits here for the first
            LedgerHead.objects.bulk_create([LedgerHead(tenant_id=tenant.pk, digest=GENESIS)], ignore_conflicts=True)
        head = heads.get(pk=tenant.pk)
    return head


def _plain(state: Mapping[str, Any] | None) -> Any:
    """As JSON holds it, so that the digest is of what is read back."""
    return None if state is None else json.loads(json.dumps(state, cls=DjangoJSONEncoder, allow_nan=False))


def _refuse_secrets(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in SECRET_FIELDS and isinstance(inner, str | bytes):
                raise SecretInLedger(key)
            _refuse_secrets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_secrets(inner)


def _microseconds(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")
