"""Who is at the other end of a link: enrolment by join token, and authentication by a signed challenge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django_scopes import scope

from proxyworker.contract import (
    LINK_SIGNATURE_CONTEXT,
    LINK_VERSION,
    Authenticate,
    Enrol,
    RefusalCode,
    Refused,
    Welcome,
)
from sessions.actions import take_up_worker
from sessions.ingest import LinkedWorker, held_journals
from targets.access import find_worker
from targets.actions import enrol_worker
from targets.errors import BadJoinToken
from targets.models import HEARTBEAT_SECONDS, WORKER_NAME_PATTERN, ProxyWorker


@dataclass(frozen=True, slots=True)
class SignedOn:
    """A worker that has proved itself, by this key, and what to welcome it with."""

    worker: LinkedWorker
    public_key: bytes
    welcome: Welcome


def sign_on(frame: Enrol | Authenticate, *, nonce: bytes, now: datetime) -> SignedOn | Refused:
    """Check the worker's proof over our nonce, and take it up."""
    if frame.link_version != LINK_VERSION:
        return _refused(RefusalCode.VERSION, f"this control plane speaks link version {LINK_VERSION}")
    known = _enrol(frame, nonce=nonce, now=now) if isinstance(frame, Enrol) else _authenticate(frame, nonce=nonce)
    if isinstance(known, Refused):
        return known
    worker = LinkedWorker(id=known.pk, tenant_id=known.tenant_id, name=known.name)
    with scope(tenant=worker.tenant_id):
        take_up_worker(worker.id, now=now)
        acknowledged = held_journals(worker)
    welcome = Welcome(
        worker_id=str(worker.id),
        tenant_id=str(worker.tenant_id),
        heartbeat_seconds=HEARTBEAT_SECONDS,
        acknowledged=acknowledged,
    )
    return SignedOn(worker=worker, public_key=bytes(known.public_key), welcome=welcome)


def _enrol(frame: Enrol, *, nonce: bytes, now: datetime) -> ProxyWorker | Refused:
    if not _is_signed(nonce, public_key=frame.public_key, signature=frame.signature):
        return _refused(RefusalCode.BAD_SIGNATURE, "the signature isn't of this key over this challenge")
    refused = _refused(
        RefusalCode.BAD_JOIN_TOKEN, "the join token is unknown, used, expired, or for another worker name"
    )
    if not re.match(WORKER_NAME_PATTERN, frame.name):
        return refused
    try:
        worker = enrol_worker(join_token=frame.join_token.value, name=frame.name, public_key=frame.public_key, now=now)
    except BadJoinToken:
        return refused
    return worker if worker.is_active else _disabled()


def _authenticate(frame: Authenticate, *, nonce: bytes) -> ProxyWorker | Refused:
    refused = _refused(RefusalCode.BAD_SIGNATURE, "no worker of this id has signed this challenge")
    try:
        worker = find_worker(UUID(frame.worker_id))
    except ValueError:
        return refused
    if worker is None or not _is_signed(nonce, public_key=bytes(worker.public_key), signature=frame.signature):
        return refused
    return worker if worker.is_active and worker.tenant.is_active else _disabled()


def _is_signed(nonce: bytes, *, public_key: bytes, signature: bytes) -> bool:
    """True for an Ed25519 signature of the contract's context, the nonce and the raw key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, LINK_SIGNATURE_CONTEXT + nonce + public_key)
    except (InvalidSignature, ValueError):
        return False
    return True


def _disabled() -> Refused:
    return _refused(RefusalCode.WORKER_DISABLED, "this worker is deactivated")


def _refused(code: RefusalCode, reason: str) -> Refused:
    return Refused(request_id=0, code=code, reason=reason)
