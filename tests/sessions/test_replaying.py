"""Replaying policies over what was recorded."""

from __future__ import annotations

from django_scopes import scope

from policies.engine import Access, Operation
from sessions import models
from sessions.ingest import append_records
from tests.sessions.conftest import Site
from tests.sessions.records import JournalScript, intent, opened


def test_what_an_operation_was_understood_to_be_is_kept(acme: Site) -> None:
    session = str(acme.session().pk)
    understood = Operation((Access("delete", "public.orders", ("id",)), Access("select", "x\u0000")), ("drop",), "ab")
    journal = JournalScript()
    journal.write(opened(session), intent(session, 1, operation=understood), intent(session, 2))
    append_records(acme.linked, journal.whole())
    with scope(tenant=acme.tenant):
        first, second = models.Operation.objects.order_by("op")
    assert first.facts == {
        "accesses": [["delete", "public.orders", ["id"]], ["select", "x␀", []]],
        "hazards": ["drop"],
        "template": "ab",
    }
    assert second.facts is None
