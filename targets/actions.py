"""What changes targets, credentials, workers and join tokens, each with its ledger entry in the same transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone
from django_scopes import scope

from accounts.models import Tenant, User
from accounts.tokens import make_token, parse_token
from controlplane.errors import Refusal
from controlplane.keyring import seal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import delete_recorded, save_recorded
from controlplane.tenancy import every_tenant
from targets.errors import BadJoinToken
from targets.models import ColumnLabel, Credential, JoinToken, ProxyWorker, Target

JOIN_TOKEN_PREFIX: Final = "ngj"  # noqa: S105  # no password
#: A join token is used by the next command in somebody's terminal, or by a deployment under way.
DEFAULT_JOIN_TOKEN_LIFETIME: Final = timedelta(hours=1)
MAX_JOIN_TOKEN_LIFETIME: Final = timedelta(days=7)
#: A file with more than this holds no join token.
MAX_JOIN_TOKEN_CHARACTERS: Final = 256

_TARGET_FIELDS: Final = (
    "name", "protocol", "host", "port", "database", "tls_mode", "ca_pem", "labels", "environment", "is_active"
)  # fmt: skip
_COLUMN_LABEL_FIELDS: Final = ("target", "schema", "table", "column", "label", "source")
#: Of one target: all of them go to its workers with each policy.
MAX_COLUMN_LABELS: Final = 2_000
_JOIN_TOKEN_FIELDS: Final = ("token_id", "worker_name", "expires_at", "revoked_at")


def save_target(target: Target, *, acting_user: User | None) -> bool:
    """Create the target, or keep its changes; False when there were none. Raises `ValidationError`."""
    return save_recorded(target, acting_user=acting_user, noun="target", fields=_TARGET_FIELDS)


def delete_target(target: Target, *, acting_user: User | None) -> None:
    """Delete a target that never had a session, with its credential. Raises `Refusal` for another."""
    try:
        delete_recorded(target, acting_user=acting_user, noun="target", fields=_TARGET_FIELDS)
    except ProtectedError as error:
        raise Refusal(problem=f"target {target} has had sessions", fix="Deactivate it instead") from error


def save_credential(credential: Credential, *, secret: str, acting_user: User | None) -> bool:
    """Create the credential, or keep its changes; False when there were none. An empty `secret` keeps the one there is.

    Raises `Refusal` when there is none, `ValidationError`, which names the field.
    """
    if secret:
        credential.sealed_secret = seal(secret.encode(), context=credential.sealing_context)
        credential.secret_set_at = timezone.now()
    elif credential._state.adding:
        raise Refusal(field="secret", problem="is empty", fix="A new credential needs its secret")
    also = {"secret": True} if secret else {}
    fields = ("target", "username")
    return save_recorded(credential, acting_user=acting_user, noun="credential", fields=fields, also=also)


def delete_credential(credential: Credential, *, acting_user: User | None) -> None:
    """Forget the secret. Sessions that were granted it go on."""
    delete_recorded(credential, acting_user=acting_user, noun="credential", fields=("target", "username"))


@transaction.atomic
def add_column_label(label: ColumnLabel, *, acting_user: User | None) -> None:
    """Say that the column holds this. Raises `ValidationError`, and `Refusal` when the target has too many."""
    others = ColumnLabel.objects.filter(target=Target.objects.select_for_update().get(pk=label.target_id))
    if others.count() >= MAX_COLUMN_LABELS:
        problem = f"target {label.target} has {MAX_COLUMN_LABELS:,} labels, which is all it may have"
        raise Refusal(field="label", problem=problem, fix="Remove labels that no rule asks for")
    label.labelled_by = acting_user
    save_recorded(label, acting_user=acting_user, noun="column_label", fields=_COLUMN_LABEL_FIELDS)


def remove_column_label(label: ColumnLabel, *, acting_user: User | None) -> None:
    """Say so no longer."""
    delete_recorded(label, acting_user=acting_user, noun="column_label", fields=_COLUMN_LABEL_FIELDS)


def issue_join_token(
    *, tenant: Tenant, worker_name: str, lifetime: timedelta, acting_user: User | None
) -> tuple[JoinToken, str]:
    """A token with which a worker of that name can enrol once, and its text, which is shown now or never.

    Raises `ValidationError` for a name that is none. The lifetime is cut to `MAX_JOIN_TOKEN_LIFETIME`.
    """
    made = make_token(JOIN_TOKEN_PREFIX)
    token = JoinToken(
        tenant=tenant,
        worker_name=worker_name,
        token_id=made.token_id,
        digest=made.digest,
        expires_at=timezone.now() + min(lifetime, MAX_JOIN_TOKEN_LIFETIME),
    )
    save_recorded(token, acting_user=acting_user, noun="join_token", fields=_JOIN_TOKEN_FIELDS)
    return token, made.text


def revoke_join_token(token: JoinToken, *, acting_user: User | None) -> None:
    """The token lets nobody enrol from now on. Nothing happens to one that is used or revoked."""
    with transaction.atomic():
        current = JoinToken.objects.select_for_update().get(pk=token.pk)
        if current.last_used_at is None and current.revoked_at is None:
            current.revoked_at = timezone.now()
            save_recorded(current, acting_user=acting_user, noun="join_token", fields=_JOIN_TOKEN_FIELDS)


@transaction.atomic
def enrol_worker(*, join_token: str, name: str, public_key: bytes, now: datetime) -> ProxyWorker:
    """Use the token up and keep the worker's key. A worker of that name gets the new key: its state was lost.

    Raises `BadJoinToken`. The caller has checked that the worker holds the key.
    """
    presented = parse_token(join_token, prefix=JOIN_TOKEN_PREFIX)
    token = _find_join_token(presented.token_id) if presented else None
    if presented is None or token is None or not presented.matches(token.digest) or not token.tenant.is_active:
        raise BadJoinToken
    with scope(tenant=token.tenant_id):
        return _enrol(token, name=name, public_key=public_key, now=now)


def _find_join_token(token_id: str) -> JoinToken | None:
    with every_tenant():
        found: JoinToken | None = JoinToken.objects.select_related("tenant").filter(token_id=token_id).first()
    return found


def _enrol(token: JoinToken, *, name: str, public_key: bytes, now: datetime) -> ProxyWorker:
    # One statement decides who was first: of two workers with one token, one changes a row. Conditions on this table
    # only: PostgreSQL looks again at the row that it waited for, but not at what was joined to it.
    usable = JoinToken.objects.filter(
        pk=token.pk, worker_name=name, last_used_at=None, revoked_at=None, expires_at__gt=now
    )
    if not usable.update(last_used_at=now):
        raise BadJoinToken
    worker: ProxyWorker
    worker, is_new = ProxyWorker.objects.update_or_create(
        tenant_id=token.tenant_id, name=name, defaults={"public_key": public_key, "enrolled_at": now}
    )
    JoinToken.objects.filter(pk=token.pk).update(used_by=worker)
    append_entry(
        tenant=token.tenant,
        kind="worker.enrolled" if is_new else "worker.enrolled_again",
        acting_user=None,
        subject=f"worker:{name}",
        before=None,
        after={"name": name, "public_key": public_key.hex(), "join_token_id": token.token_id},
    )
    return worker


def save_worker(worker: ProxyWorker, *, acting_user: User | None) -> bool:
    """Keep whether the worker is active; when it isn't, its link is closed and its sessions end."""
    return save_recorded(worker, acting_user=acting_user, noun="worker", fields=("name", "is_active"))
