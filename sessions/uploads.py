"""Content segments: a ticket over the link, then the file by PUT, checked on its way to the storage.

A ticket is a signed statement of what may come: which segment of which session, its size and its digest. It is good for
`TICKET_SECONDS` and as often as needed: the same bytes again change nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import msgspec
from django.core import signing
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.db import transaction
from django_scopes import scope

from proxyworker.contract import MAX_SEGMENT_BYTES, RefusalCode, Refused, RequestUpload, UploadTicket
from sessions.errors import PeerFault, SegmentMismatch
from sessions.ingest import LinkedWorker
from sessions.models import DIGEST_BYTES, AgentSession, ContentSegment

#: An upload starts at once; the link gives another ticket when this one is over.
TICKET_SECONDS: Final = 600
#: A session of a terabyte.
MAX_SEGMENT_INDEX: Final = 65_535
_SALT: Final = "narrowgate.segment.v1"
_CHUNK_BYTES: Final = 64 * 1024
_PATH: Final = re.compile(r"/link/v1/segments/([^/?]+)/")


class Ticket(msgspec.Struct, frozen=True):
    """What may be uploaded. `sha256` is in hex."""

    tenant_id: str
    session_id: str
    index: int
    sha256: str
    size_bytes: int

    @property
    def storage_name(self) -> str:
        """One name for one content, so that no upload overwrites another."""
        return f"{self.tenant_id}/{self.session_id}/{self.index:05d}-{self.sha256}"


def offer_upload(worker: LinkedWorker, frame: RequestUpload) -> UploadTicket | Refused:
    """A ticket for the segment; an empty one when it is there. Raises `PeerFault` for a segment that can't be."""
    if not (
        len(frame.sha256) == DIGEST_BYTES
        and 0 <= frame.index <= MAX_SEGMENT_INDEX
        and 0 < frame.size_bytes <= MAX_SEGMENT_BYTES
    ):
        raise PeerFault("a segment out of bounds")
    try:
        session_id = UUID(frame.session_id)
    except ValueError as error:
        raise PeerFault("an id that is none") from error
    with scope(tenant=worker.tenant_id):
        if not AgentSession.objects.filter(pk=session_id, worker_id=worker.id).exists():
            return _refused(frame, "this worker has no such session")
        kept = ContentSegment.objects.filter(session_id=session_id, index=frame.index).first()
    if kept is not None:
        if bytes(kept.sha256) != frame.sha256:
            return _refused(frame, "another segment is kept under this index")
        return UploadTicket(request_id=frame.request_id, url="", headers={})
    ticket = Ticket(
        tenant_id=str(worker.tenant_id),
        session_id=str(session_id),
        index=frame.index,
        sha256=frame.sha256.hex(),
        size_bytes=frame.size_bytes,
    )
    signed = signing.dumps(msgspec.to_builtins(ticket), salt=_SALT)
    headers = {"Content-Type": "application/octet-stream"}
    return UploadTicket(request_id=frame.request_id, url=f"/link/v1/segments/{signed}/", headers=headers)


def read_ticket(signed: str) -> Ticket:
    """Raises `BadSignature` for anything that isn't a ticket of ours, and for one that is over."""
    return msgspec.convert(signing.loads(signed, salt=_SALT, max_age=TICKET_SECONDS), Ticket)


def allowed_bytes(path: str) -> int:
    """What may be sent to a path: what its ticket says, nothing where there is none."""
    found = _PATH.fullmatch(path)
    try:
        return 0 if found is None else read_ticket(found[1]).size_bytes
    except (signing.BadSignature, msgspec.ValidationError):
        return 0


def keep_segment(ticket: Ticket, read: Callable[[int], bytes]) -> None:
    """Store what `read` gives if it is what the ticket says. Raises `SegmentMismatch`; then nothing is kept."""
    storage: Storage = storages["segments"]
    storage.save(ticket.storage_name, _CheckedFile(read, ticket))
    with scope(tenant=UUID(ticket.tenant_id)), transaction.atomic():
        kept, _ = ContentSegment.objects.get_or_create(
            session_id=UUID(ticket.session_id),
            index=ticket.index,
            defaults={
                "tenant_id": UUID(ticket.tenant_id),
                "sha256": bytes.fromhex(ticket.sha256),
                "size_bytes": ticket.size_bytes,
                "storage_name": ticket.storage_name,
            },
        )
    if bytes(kept.sha256).hex() != ticket.sha256:
        raise SegmentMismatch


class _CheckedFile(File):  # type: ignore[type-arg]  # Django subscripts it for type checkers only
    """A stream that ends in an error unless size and digest are right."""

    def __init__(self, read: Callable[[int], bytes], ticket: Ticket) -> None:
        super().__init__(None, name=ticket.storage_name)
        self._read = read
        self._ticket = ticket

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Read no more than the ticket allows. Raises `SegmentMismatch`."""
        digest = hashlib.sha256()
        left = self._ticket.size_bytes
        while chunk := self._read(min(chunk_size or _CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise SegmentMismatch
            digest.update(chunk)
            yield chunk
        if left or not hmac.compare_digest(digest.hexdigest(), self._ticket.sha256):
            raise SegmentMismatch


def _refused(frame: RequestUpload, reason: str) -> Refused:
    return Refused(request_id=frame.request_id, code=RefusalCode.DENIED, reason=reason)
