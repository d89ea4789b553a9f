"""What the names of a session stand for."""

from __future__ import annotations

import pytest

from proxyworker.postgres import names as names_module
from proxyworker.postgres.names import Names, Statement, TooManyNames
from proxyworker.postgres.understand import (
    CURSOR_FACTS,
    NAMELESS_UNKNOWN_FACTS,
    UNKNOWN_FACTS,
    NameChange,
    understand,
)

ONE = Statement(b"SELECT 1", understand(b"SELECT 1"))
TWO = Statement(b"SELECT 2", understand(b"SELECT 2"))


@pytest.fixture
def names() -> Names:
    return Names()


def test_a_name_stands_for_its_statement_until_it_is_dropped(names: Names) -> None:
    names.set_statement(b"s1", ONE)
    assert names.has_statement(b"s1")
    assert names.statement(b"s1") is ONE
    names.set_statement(b"s1", TWO)
    assert names.statement(b"s1") is TWO
    names.drop_statement(b"s1")
    names.drop_statement(b"s1")
    assert not names.has_statement(b"s1")


def test_what_failed_is_dropped_only_if_the_name_still_stands_for_it(names: Names) -> None:
    names.set_statement(b"s1", TWO)
    names.drop_statement(b"s1", ONE)
    assert names.statement(b"s1") is TWO
    names.drop_statement(b"s1", TWO)
    assert not names.has_statement(b"s1")
    names.set_portal(b"p", TWO)
    names.drop_portal(b"p", ONE)
    assert names.portal(b"p") is TWO
    names.drop_portal(b"p", TWO)
    names.drop_portal(b"p", TWO)
    assert not names.has_portal(b"p")


def test_the_unnamed_is_never_taken(names: Names) -> None:
    names.set_statement(b"", ONE)
    names.set_portal(b"", ONE)
    assert not names.has_statement(b"")
    assert not names.has_portal(b"")
    assert (names.statement(b""), names.portal(b"")) == (ONE, ONE)


@pytest.mark.parametrize(("name", "shown"), [(b"s1", b'"s1"'), (b'a"; DROP', b'"a""; DROP"'), (b"", b'""')])
def test_an_unknown_statement_may_do_anything_and_an_unknown_portal_is_a_cursor(
    names: Names, name: bytes, shown: bytes
) -> None:
    assert names.statement(name) == Statement(b"EXECUTE " + shown, NAMELESS_UNKNOWN_FACTS)
    assert names.portal(name) == Statement(b"FETCH FROM " + shown, CURSOR_FACTS)


def test_portals_end_with_their_transaction_and_statements_do_not(names: Names) -> None:
    names.set_statement(b"s1", ONE)
    names.set_portal(b"p", ONE)
    names.transaction_ended()
    assert names.has_statement(b"s1")
    assert not names.has_portal(b"p")


def test_sql_makes_and_drops_names_in_its_order(names: Names) -> None:
    names.set_statement(b"s1", ONE)
    names.set_statement(b"s2", ONE)
    names.apply((NameChange(b"s1", None), NameChange(b"s3", b"PREPARE s3"), NameChange(b"s4", b"PREPARE s4")))
    assert [names.has_statement(name) for name in (b"s1", b"s2", b"s3")] == [False, True, True]
    assert names.statement(b"s3") == Statement(b"PREPARE s3", UNKNOWN_FACTS)
    names.apply((NameChange(None, None), NameChange(b"s5", b"PREPARE s5")))
    assert [names.has_statement(name) for name in (b"s2", b"s3", b"s5")] == [False, False, True]


def test_names_have_a_bound(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "MAX_STATEMENTS", 2)
    monkeypatch.setattr(names_module, "MAX_PORTALS", 1)
    names.set_statement(b"s1", ONE)
    names.set_statement(b"s2", ONE)
    names.set_statement(b"s2", TWO)
    with pytest.raises(TooManyNames):
        names.set_statement(b"s3", ONE)
    names.set_portal(b"p1", ONE)
    with pytest.raises(TooManyNames):
        names.set_portal(b"p2", ONE)


def test_texts_have_a_bound_together_and_give_room_back(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "MAX_STATEMENT_TEXT_BYTES", 3 * len(ONE.text))
    for _ in range(10):
        names.set_statement(b"s1", ONE)
        names.set_statement(b"s2", ONE)
        names.set_statement(b"s3", ONE)
        names.drop_statement(b"s3")
        names.apply((NameChange(None, None),))
    names.set_statement(b"s1", ONE)
    names.set_statement(b"s2", ONE)
    names.set_statement(b"s3", ONE)
    with pytest.raises(TooManyNames):
        names.apply((NameChange(b"s4", b"x"),))
