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
    LINK_VERSION,
    MAX_PROCESSES,
    Authenticate,
    Enrol,
    RefusalCode,
    Refused,
    Welcome,
    signed_hello,
)
from sessions.actions import take_up_process
from sessions.errors import PeerFault
from sessions.ingest import LinkedWorker, held_journals
from targets.access import find_worker
from targets.actions import enrol_worker
from targets.errors import BadJoinToken
from targets.models import HEARTBEAT_SECONDS, WORKER_NAME_PATTERN, ProxyWorker


@dataclass(frozen=True, slots=True)
class SignedOn:
    """A worker that has proved itself, by this key, and what to welcome it with. `link_id` is this link's."""

    worker: LinkedWorker
    link_id: UUID
    public_key: bytes
    welcome: Welcome


def sign_on(frame: Enrol | Authenticate, *, nonce: bytes, now: datetime) -> SignedOn | Refused:
    """Check the worker's proof over our nonce, and take it up. Raises `PeerFault` for a process that can't be."""
    if not 0 <= frame.process < frame.processes <= MAX_PROCESSES:
        raise PeerFault("a process that can't be")
    if frame.link_version != LINK_VERSION:
        return _refused(RefusalCode.VERSION, f"this control plane speaks link version {LINK_VERSION}")
    known = _enrol(frame, nonce=nonce, now=now) if isinstance(frame, Enrol) else _authenticate(frame, nonce=nonce)
    if isinstance(known, Refused):
        return known
    worker = LinkedWorker(id=known.pk, tenant_id=known.tenant_id, name=known.name, process=frame.process)
    with scope(tenant=worker.tenant_id):
        link_id = take_up_process(known, number=frame.process, processes=frame.processes, now=now)
        acknowledged = held_journals(worker)
    welcome = Welcome(
        worker_id=str(worker.id),
        tenant_id=str(worker.tenant_id),
        heartbeat_seconds=HEARTBEAT_SECONDS,
        acknowledged=acknowledged,
    )
    return SignedOn(worker=worker, link_id=link_id, public_key=bytes(known.public_key), welcome=welcome)


def _enrol(frame: Enrol, *, nonce: bytes, now: datetime) -> ProxyWorker | Refused:
    if not _is_signed(frame, nonce=nonce, public_key=frame.public_key):
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
    if worker is None or not _is_signed(frame, nonce=nonce, public_key=bytes(worker.public_key)):
        return refused
    return worker if worker.is_active and worker.tenant.is_active else _disabled()


def _is_signed(frame: Enrol | Authenticate, *, nonce: bytes, public_key: bytes) -> bool:
    """True if the frame's signature is this key's, over what the contract says."""
    hello = signed_hello(nonce, public_key, process=frame.process, processes=frame.processes)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(frame.signature, hello)
    except (InvalidSignature, ValueError):
        return False
    return True


def _disabled() -> Refused:
    return _refused(RefusalCode.WORKER_DISABLED, "this worker is deactivated")


def _refused(code: RefusalCode, reason: str) -> Refused:
    return Refused(request_id=0, code=code, reason=reason)
