"""What the control plane keeps of a worker's journal."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django_scopes import scope
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proxyworker.contract import OutcomeStatus, Parameter, decode_record
from sessions.errors import AppendOnly, PeerFault
from sessions.ingest import append_records, held_journals, unpack_batch
from sessions.models import AgentSession, JournalBatch, Operation
from tests.sessions.conftest import Site
from tests.sessions.records import JournalScript, approval, closed, intent, opened, outcome


def script_of_two_sessions(first: str, second: str) -> JournalScript:
    """Two sessions side by side: outcomes late and out of order, one missing, one unknown."""
    journal = JournalScript()
    journal.write(opened(first), intent(first, 1), opened(second), intent(second, 1, "SELECT 'a\\u0000b'"))
    journal.write(intent(first, 2, "DELETE FROM x", [Parameter("7"), Parameter(None), Parameter("ff", binary=True)]))
    journal.write(outcome(first, 2, OutcomeStatus.ERROR), outcome(second, 1), outcome(first, 1), intent(second, 2))
    journal.write(
        approval(second, 2),
        intent(first, 3),
        approval(first, 3),
        outcome(first, 3, OutcomeStatus.UNKNOWN),
        intent(second, 3),
        outcome(second, 3),
    )
    journal.write(closed(first, 3))
    return journal


def indexed(site: Site) -> tuple[list[Any], list[Any]]:
    """The rows that people see, without what differs from run to run."""
    with scope(tenant=site.tenant):
        sessions = AgentSession.objects.order_by("granted_at").values(
            "state", "opened_at", "closed_at", "operation_count"
        )
        operations = Operation.objects.order_by("session__granted_at", "op").values()
        varying = ("id", "session_id", "tenant_id")
        return list(sessions), [{k: v for k, v in row.items() if k not in varying} for row in operations]


def test_intents_and_outcomes_become_one_row_each(acme: Site) -> None:
    session = acme.session()
    journal = JournalScript()
    journal.write(opened(str(session.pk)), intent(str(session.pk), 1, "SELECT $1", [Parameter("x")]))
    journal.write(outcome(str(session.pk), 1), closed(str(session.pk), 1))
    assert append_records(acme.linked, journal.whole()) == 4
    with scope(tenant=acme.tenant):
        operation = Operation.objects.get()
        session.refresh_from_db()
    assert (operation.text, operation.status, operation.rows, operation.duration_us) == ("SELECT $1", "ok", 1, 500)
    assert operation.parameters == [{"value": "x", "binary": False, "truncated_bytes": 0}]
    assert (operation.effect, operation.rule, operation.tags) == ("allow", "support/read", ["SELECT 1"])
    assert (session.state, session.close_reason, session.operation_count) == ("closed", "the agent left", 1)


def test_the_batch_is_kept_as_it_was_written(acme: Site) -> None:
    session = acme.session()
    journal = script_of_two_sessions(str(session.pk), str(acme.session().pk))
    append_records(acme.linked, journal.batch(1, 5))
    append_records(acme.linked, journal.batch(3, len(journal.records)))
    with scope(tenant=acme.tenant):
        batches = list(JournalBatch.objects.order_by("first_seq"))
    kept = [record for batch in batches for record in unpack_batch(bytes(batch.payload))]
    assert kept == journal.records
    assert decode_record(kept[0]) == opened(str(session.pk))
    assert bytes(batches[-1].chain_after) == journal.chain[-1]
    with scope(tenant=acme.tenant):
        assert held_journals(acme.linked) == {journal.journal_id: len(journal.records)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(1, 14), st.integers(0, 13)), max_size=8))
def test_any_split_with_any_repeats_gives_the_same_rows(acme: Site, cuts: list[tuple[int, int]]) -> None:
    with transaction.atomic():
        expected = script_of_two_sessions(str(acme.session().pk), str(acme.session().pk))
        append_records(acme.linked, expected.whole())
        rows_of_whole = indexed(acme)
        transaction.set_rollback(True)
    with transaction.atomic():
        journal = script_of_two_sessions(str(acme.session().pk), str(acme.session().pk))
        length = len(journal.records)
        held = 0
        for first, more in [*cuts, (1, length)]:
            seq = append_records(acme.linked, journal.batch(first, min(length, first + more)))
            assert seq == (held if first > held + 1 else max(held, min(length, first + more)))
            held = seq
        assert held == length
        assert indexed(acme) == rows_of_whole
        transaction.set_rollback(True)


def test_a_gap_is_answered_with_what_is_held(acme: Site) -> None:
    session = acme.session()
    journal = script_of_two_sessions(str(session.pk), str(acme.session().pk))
    assert append_records(acme.linked, journal.batch(5, 8)) == 0
    assert append_records(acme.linked, journal.batch(1, 4)) == 4
    assert append_records(acme.linked, journal.batch(6, 8)) == 4


def test_an_altered_record_breaks_the_chain(acme: Site) -> None:
    journal = script_of_two_sessions(str(acme.session().pk), str(acme.session().pk))
    batch = journal.whole()
    altered = [*batch.records]
    altered[1] = altered[1].replace(b"SELECT 1", b"SELECT 2")
    with pytest.raises(PeerFault, match="hash chain"):
        append_records(acme.linked, replace(batch, records=altered))
    assert indexed(acme)[1] == []


def test_a_journal_that_forks_from_what_is_held_is_refused(acme: Site) -> None:
    first, second = str(acme.session().pk), str(acme.session().pk)
    journal = script_of_two_sessions(first, second)
    append_records(acme.linked, journal.batch(1, 4))
    fork = JournalScript(journal_id=journal.journal_id)
    fork.write(opened(second), opened(first), intent(first, 1), intent(second, 1), intent(first, 2))
    for batch in (fork.whole(), fork.batch(5, 5), fork.batch(3, 4)):
        with pytest.raises(PeerFault, match=r"chain|forked"):
            append_records(acme.linked, batch)
    with scope(tenant=acme.tenant):
        assert held_journals(acme.linked) == {journal.journal_id: 4}


@pytest.mark.parametrize("which", ["another tenant's", "another worker's", "nobody's"])
def test_records_of_a_session_of_somebody_else_are_refused_whole(acme: Site, globex: Site, which: str) -> None:
    foreign = str(globex.session().pk) if which == "another tenant's" else str(uuid.uuid4())
    if which == "another worker's":
        session = acme.session()
        with scope(tenant=acme.tenant):
            other = type(acme.worker).objects.create(
                tenant=acme.tenant, name="other", public_key=b"k" * 32, enrolled_at=session.granted_at
            )
            AgentSession.objects.filter(pk=session.pk).update(worker=other)
        foreign = str(session.pk)
    journal = JournalScript()
    journal.write(intent(str(acme.session().pk), 1), intent(foreign, 1))
    with pytest.raises(PeerFault, match="not this worker's"):
        append_records(acme.linked, journal.whole())
    assert indexed(acme)[1] == indexed(globex)[1] == []


@pytest.mark.parametrize(
    "changes",
    [{"op": -1}, {"op": 2**40}, {"at": float("nan")}, {"at": 1e300}, {"session_id": "x"}, {"text_bytes": -1}],
    ids=str,
)
def test_values_that_no_row_can_hold_are_the_workers_fault(acme: Site, changes: dict[str, Any]) -> None:
    journal = JournalScript()
    journal.write(replace(intent(str(acme.session().pk), 1), **changes))
    with pytest.raises(PeerFault):
        append_records(acme.linked, journal.whole())
    assert indexed(acme)[1] == []


def test_a_nul_in_a_text_is_shown_as_a_symbol(acme: Site) -> None:
    session = str(acme.session().pk)
    journal = JournalScript()
    journal.write(intent(session, 1, "a\x00b"), intent(session, 2, "a\\u0000b"), intent(session, 3, "a\\\x00\x00b"))
    append_records(acme.linked, journal.whole())
    with scope(tenant=acme.tenant):
        texts = list(Operation.objects.order_by("op").values_list("text", flat=True))
    assert texts == ["a␀b", "a\\u0000b", "a\\␀␀b"]


def test_a_lost_session_whose_records_come_is_live_again(acme: Site) -> None:
    session = acme.session()
    with scope(tenant=acme.tenant):
        AgentSession.objects.update(state="lost")
    journal = JournalScript()
    journal.write(intent(str(session.pk), 1))
    append_records(acme.linked, journal.whole())
    assert indexed(acme)[0][0]["state"] == "live"


@pytest.mark.parametrize("statement", ["UPDATE {} SET last_seq = 9", "DELETE FROM {}", "TRUNCATE {}"])
def test_batches_are_append_only_in_the_database(acme: Site, statement: str) -> None:
    journal = JournalScript()
    journal.write(intent(str(acme.session().pk), 1))
    append_records(acme.linked, journal.whole())
    table = JournalBatch._meta.db_table
    with (
        scope(tenant=acme.tenant),
        connection.cursor() as cursor,
        pytest.raises(DatabaseError, match="permission denied"),
    ):
        cursor.execute(statement.format(table))


def test_batches_are_append_only_in_the_orm(acme: Site) -> None:
    journal = JournalScript()
    journal.write(intent(str(acme.session().pk), 1))
    append_records(acme.linked, journal.whole())
    with scope(tenant=acme.tenant):
        batch = JournalBatch.objects.get()
    with pytest.raises(AppendOnly):
        batch.save()
    with pytest.raises(AppendOnly):
        batch.delete()
