"""Content segments: tickets over the link, and the upload."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.files.storage import storages
from django.test import Client
from django.utils import timezone
from django_scopes import scope
from pytest_django.fixtures import Settings

from proxyworker.contract import MAX_SEGMENT_BYTES, RefusalCode, Refused, RequestUpload, UploadTicket
from sessions.errors import PeerFault
from sessions.models import ContentSegment
from sessions.storage import DurableFileSystemStorage
from sessions.uploads import MAX_SEGMENT_INDEX, TICKET_SECONDS, allowed_bytes, offer_upload
from tests.sessions.conftest import Site

CONTENT = b"NGS1" + bytes(range(256)) * 700


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, settings: Settings) -> Path:
    """Where segments go in these tests."""
    assert isinstance(storages["segments"], DurableFileSystemStorage)
    segments = {**settings.STORAGES["segments"], "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "segments": segments}
    return tmp_path


def request(session_id: object, content: bytes = CONTENT, **changes: Any) -> RequestUpload:
    """What a worker asks for this segment."""
    digest = hashlib.sha256(content).digest()
    fields: dict[str, Any] = {"index": 0, "sha256": digest, "size_bytes": len(content), **changes}
    return RequestUpload(request_id=5, session_id=str(session_id), **fields)


def ticket(site: Site, wanted: RequestUpload) -> str:
    """The URL on which the upload is allowed."""
    answer = offer_upload(site.linked, wanted)
    assert isinstance(answer, UploadTicket)
    assert answer.url.startswith("/link/v1/segments/")
    return answer.url


def put(client: Client, url: str, content: bytes = CONTENT) -> int:
    """The status that the upload gets."""
    return client.put(url, data=content, content_type="application/octet-stream").status_code


def files(folder: Path) -> list[bytes]:
    """What is in the storage."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_a_segment_is_stored_and_known(acme: Site, client: Client, folder: Path) -> None:
    session = acme.session()
    assert put(client, ticket(acme, request(session.pk))) == 201
    with scope(tenant=acme.tenant):
        segment = ContentSegment.objects.get()
    assert (segment.session_id, segment.index, segment.size_bytes) == (session.pk, 0, len(CONTENT))
    assert bytes(segment.sha256) == hashlib.sha256(CONTENT).digest()
    assert files(folder) == [CONTENT]
    with storages["segments"].open(segment.storage_name) as file:
        assert file.read() == CONTENT


def test_the_same_again_changes_nothing_and_a_new_ticket_is_empty(acme: Site, client: Client, folder: Path) -> None:
    session = acme.session()
    url = ticket(acme, request(session.pk))
    assert [put(client, url), put(client, url)] == [201, 201]
    answer = offer_upload(acme.linked, request(session.pk))
    assert isinstance(answer, UploadTicket)
    assert (answer.url, len(files(folder))) == ("", 1)


def test_another_content_under_the_same_index_is_refused(acme: Site, client: Client) -> None:
    session = acme.session()
    early = ticket(acme, request(session.pk, b"other"))
    put(client, ticket(acme, request(session.pk)))
    answer = offer_upload(acme.linked, request(session.pk, b"other"))
    assert isinstance(answer, Refused)
    assert put(client, early, b"other") == 422
    with scope(tenant=acme.tenant):
        assert ContentSegment.objects.get().size_bytes == len(CONTENT)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_bytes_that_are_not_the_tickets_leave_nothing(acme: Site, client: Client, folder: Path, content: bytes) -> None:
    assert put(client, ticket(acme, request(acme.session().pk)), content) == 422
    with scope(tenant=acme.tenant):
        assert not ContentSegment.objects.exists()
    assert files(folder) == []


def test_a_forged_or_late_ticket_is_no_ticket(acme: Site, client: Client, folder: Path) -> None:
    url = ticket(acme, request(acme.session().pk))
    assert put(client, url[:-4] + "xxx/") == 404
    with time_machine.travel(timezone.now().timestamp() + TICKET_SECONDS + 1):
        assert put(client, url) == 404
    assert files(folder) == []


def test_so_many_bytes_are_taken_in_as_the_ticket_says_and_none_without(acme: Site) -> None:
    url = ticket(acme, request(acme.session().pk))
    assert allowed_bytes(url) == len(CONTENT)
    for other in ("/", "/api/v1/agents/", f"{url}x", f"{url[:-2]}/", "/link/v1/segments/", f"/x{url}"):
        assert allowed_bytes(other) == 0
    with time_machine.travel(timezone.now().timestamp() + TICKET_SECONDS + 1):
        assert allowed_bytes(url) == 0


def test_a_ticket_is_for_putting_only(acme: Site, client: Client) -> None:
    url = ticket(acme, request(acme.session().pk))
    assert [client.get(url).status_code, client.post(url).status_code] == [405, 405]


def test_no_ticket_for_a_session_of_somebody_else(acme: Site, globex: Site) -> None:
    answer = offer_upload(acme.linked, request(globex.session().pk))
    assert isinstance(answer, Refused)
    assert answer.code is RefusalCode.DENIED


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 0},
        {"size_bytes": MAX_SEGMENT_BYTES + 1},
        {"index": -1},
        {"index": MAX_SEGMENT_INDEX + 1},
        {"sha256": b"short"},
        {"session_id": "x"},
    ],
    ids=str,
)
def test_a_segment_out_of_bounds_is_the_workers_fault(acme: Site, changes: dict[str, Any]) -> None:
    session_id = changes.pop("session_id", acme.session().pk)
    with pytest.raises(PeerFault):
        offer_upload(acme.linked, request(session_id, **changes))
