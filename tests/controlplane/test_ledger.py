"""The ledger: gapless per tenant, chained, append-only in the ORM and in PostgreSQL, and free of secrets."""

from __future__ import annotations

import threading

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError
from django_scopes import ScopeError, scope, scopes_disabled

from accounts.models import Tenant, User
from controlplane.database.roles import owning
from controlplane.ledger.actions import append_entry, first_break
from controlplane.ledger.errors import LedgerIsReadOnly, SecretInLedger
from controlplane.ledger.models import Entry, LedgerEntry, LedgerHead


@pytest.fixture
def acme(db: None) -> Tenant:
    return Tenant.objects.create(slug="acme", name="Acme")


@pytest.fixture
def globex(db: None) -> Tenant:
    return Tenant.objects.create(slug="globex", name="Globex")


def append(tenant: Tenant, kind: str = "agent.created") -> Entry:
    with transaction.atomic():
        return append_entry(
            tenant=tenant, kind=kind, acting_user=None, subject="agent:x", before=None, after={"name": "x"}
        )


def test_each_tenant_counts_for_itself_and_without_gaps(acme: Tenant, globex: Tenant) -> None:
    assert [append(acme).seq, append(globex).seq, append(acme).seq, append(globex).seq] == [1, 1, 2, 2]


def test_an_entry_tells_who_and_when_and_what(acme: Tenant) -> None:
    ada = User.objects.create_user("ada@acme.example")
    entry = append_entry(
        tenant=acme,
        kind="agent.changed",
        acting_user=ada,
        subject="agent:x",
        before={"groups": ["a"]},
        after={"groups": ["b"]},
    )
    with scope(tenant=acme):
        kept = LedgerEntry.objects.get(pk=entry.pk)
    assert (kept.actor, kept.kind, kept.before, kept.after) == (
        "ada@acme.example",
        "agent.changed",
        {"groups": ["a"]},
        {"groups": ["b"]},
    )


def test_the_chain_holds_as_appended(acme: Tenant, globex: Tenant) -> None:
    for _ in range(5):
        append(acme)
    assert first_break(acme.pk) is None
    assert first_break(globex.pk) is None


@pytest.mark.parametrize(
    ("tampering", "break_at"),
    [
        ("UPDATE ledger_ledgerentry SET actor = 'nobody' WHERE seq = 3", 3),
        ('UPDATE ledger_ledgerentry SET after = \'{"name": "y"}\' WHERE seq = 2', 2),
        ("UPDATE ledger_ledgerentry SET at = at + interval '1 second' WHERE seq = 1", 1),
        ("DELETE FROM ledger_ledgerentry WHERE seq = 4", 4),
        ("DELETE FROM ledger_ledgerentry WHERE seq = 5", 5),
        ("DELETE FROM ledger_ledgerentry", 1),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_an_owner_who_gets_round_the_triggers_breaks_the_chain(tampering: str, break_at: int) -> None:
    acme = Tenant.objects.create(slug="acme", name="Acme")
    for _ in range(5):
        append(acme)
    with scope(tenant=acme), owning("default") as owner, owner.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_ledgerentry DISABLE TRIGGER refuse_change")
        cursor.execute(tampering)
        cursor.execute("ALTER TABLE ledger_ledgerentry ENABLE TRIGGER refuse_change")
    assert first_break(acme.pk) == break_at


@pytest.mark.parametrize("tampering", ["DELETE FROM ledger_ledgerhead", "UPDATE ledger_ledgerhead SET seq = 4"])
def test_a_head_that_was_tampered_with_shows(acme: Tenant, tampering: str) -> None:
    """The application's role may change it, because each entry does."""
    for _ in range(5):
        append(acme)
    with scope(tenant=acme), connection.cursor() as cursor:
        cursor.execute(tampering)
    assert first_break(acme.pk) == 6


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_ledgerentry SET kind = 'x'",
        "DELETE FROM ledger_ledgerentry",
        "TRUNCATE ledger_ledgerentry",
    ],
)
@pytest.mark.django_db(transaction=True)
def test_postgresql_refuses_every_change_even_to_the_owner(statement: str) -> None:
    acme = Tenant.objects.create(slug="acme", name="Acme")
    append(acme)
    with scope(tenant=acme):
        with connection.cursor() as cursor, pytest.raises(DatabaseError, match="permission denied"):
            cursor.execute(statement)
        with owning("default") as owner, owner.cursor() as cursor, pytest.raises(DatabaseError, match="append-only"):
            cursor.execute(statement)


def test_the_orm_refuses_every_change(acme: Tenant) -> None:
    entry = append(acme)
    entry.kind = "x"
    with pytest.raises(LedgerIsReadOnly):
        entry.save()
    with pytest.raises(LedgerIsReadOnly):
        entry.delete()
    with scope(tenant=acme):
        with pytest.raises(LedgerIsReadOnly):
            LedgerEntry.objects.update(kind="x")
        with pytest.raises(LedgerIsReadOnly):
            LedgerEntry.objects.all().delete()


@pytest.mark.parametrize(
    "state",
    [{"password": "x"}, {"credential": {"secret": "x"}}, {"tokens": [{"token": b"x"}]}, {"private_key": "x"}],
)
def test_a_secret_is_refused(acme: Tenant, state: dict[str, object]) -> None:
    with pytest.raises(SecretInLedger), transaction.atomic():
        append_entry(tenant=acme, kind="x.y", acting_user=None, subject="x", before=None, after=state)
    with scope(tenant=acme):
        assert not LedgerHead.objects.filter(tenant=acme, seq__gt=0).exists()


def test_that_a_secret_was_set_may_be_told(acme: Tenant) -> None:
    append_entry(tenant=acme, kind="x.y", acting_user=None, subject="x", before=None, after={"secret": True})
    assert first_break(acme.pk) is None


def test_a_change_that_is_rolled_back_leaves_no_gap(acme: Tenant) -> None:
    append(acme)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        append(acme)
        raise ZeroDivisionError
    assert append(acme).seq == 2
    assert first_break(acme.pk) is None


def test_without_a_scope_nothing_is_read(acme: Tenant) -> None:
    append(acme)
    with pytest.raises(ScopeError):
        LedgerEntry.objects.count()


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_nothing_is_appended() -> None:
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    with pytest.raises(TransactionManagementError):
        append_entry(tenant=tenant, kind="x.y", acting_user=None, subject="x", before=None, after=None)


@pytest.mark.django_db(transaction=True)
def test_many_writers_at_once_leave_no_gap() -> None:
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    start = threading.Barrier(4)

    def write() -> None:
        start.wait(timeout=10)
        try:
            for _ in range(10):
                append(tenant)
        finally:
            connection.close()

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    with scopes_disabled():
        assert LedgerEntry.objects.count() == 40
    assert first_break(tenant.pk) is None
