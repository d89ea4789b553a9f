"""Appending to the ledger: the only way into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models, transaction
from django.utils import timezone
from django_scopes import scope

from controlplane.ledger.errors import SecretInLedger
from controlplane.ledger.models import Entry, Head, LedgerEntry, LedgerHead, PlatformEntry, PlatformHead
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
#: The key of the platform's one head.
PLATFORM_HEAD: Final = 1

HeadT = TypeVar("HeadT", bound=Head)


def append_entry(
    *,
    tenant: models.Model | None,
    kind: str,
    acting_user: AbstractBaseUser | None,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> Entry:
    """Append an entry to the tenant's ledger, in the caller's transaction; without a tenant, to the platform's.

    `acting_user` None is the system, or the machine that the origin names. `before` and `after` are what the object
    said, as JSON; None means that it was not there. Raises `SecretInLedger` when either has a text under a secret's
    name, and TransactionManagementError outside a transaction: an entry without its change, or a change without its
    entry, must not be.
    """
    for state in (before, after):
        _refuse_secrets(state)
    origin = current_origin()
    told = {
        "at": timezone.now(),
        "kind": kind,
        "actor": (str(acting_user) if acting_user else origin.machine or SYSTEM)[:254],
        "actor_user_id": acting_user.pk if acting_user else None,
        "subject": subject[:254],
        "channel": origin.channel.value,
        "address": origin.address,
        "before": _plain(before),
        "after": _plain(after),
    }
    if tenant is None:
        return _append(PlatformEntry(**told), head=_locked_head(PlatformHead, PLATFORM_HEAD))
    with scope(tenant=tenant.pk):
        return _append(LedgerEntry(tenant_id=tenant.pk, **told), head=_locked_head(LedgerHead, tenant.pk))


def _append(entry: Entry, *, head: Head) -> Entry:
    entry.seq = head.seq + 1
    entry.digest = digest_of(entry, previous=bytes(head.digest))
    entry.save(force_insert=True)
    head.seq, head.digest = entry.seq, entry.digest
    head.save(update_fields=("seq", "digest"))
    return entry


def digest_of(entry: Entry, *, previous: bytes) -> bytes:
    """SHA-256 over the digest before it and the entry as canonical JSON (sorted keys, no blanks, UTF-8)."""
    tenant_id: UUID | None = entry.tenant_id  # type: ignore[attr-defined]  # both kinds of entry have it
    fields: dict[str, Any] = {
        "tenant": str(tenant_id) if tenant_id else None,
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


def first_break(tenant_id: UUID | None) -> int | None:
    """The seq of the first entry that isn't what was appended there; None when the chain holds up to its head.

    Of the platform's ledger for None.
    """
    if tenant_id is None:
        return _first_break(PlatformEntry.objects.all(), PlatformHead.objects.first())
    with scope(tenant=tenant_id):
        return _first_break(LedgerEntry.objects.all(), LedgerHead.objects.filter(pk=tenant_id).first())


def _first_break(entries: models.QuerySet[Any], head: Head | None) -> int | None:
    previous, seq = GENESIS, 0
    for entry in entries.order_by("seq").iterator(chunk_size=1_000):
        seq += 1
        if entry.seq != seq or digest_of(entry, previous=previous) != bytes(entry.digest):
            return seq
        previous = bytes(entry.digest)
    held = (head.seq, bytes(head.digest)) if head is not None else (0, GENESIS)
    return None if held == (seq, previous) else seq + 1


def _locked_head(kind: type[HeadT], key: UUID | int) -> HeadT:
    """The ledger's head under a row lock, made when it is missing."""
    heads = kind._default_manager.select_for_update()
    head = heads.filter(pk=key).first()
    if head is None:
        with transaction.atomic():  # two first entries at once: the second waits here for the first
            kind._default_manager.bulk_create([kind(pk=key, digest=GENESIS)], ignore_conflicts=True)
        head = heads.get(pk=key)
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
