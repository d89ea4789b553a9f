"""What an operation that waits says of itself."""

from __future__ import annotations

from typing import Any, cast

from proxyworker.postgres.held import HeldOperation, SessionState, executed_by
from proxyworker.postgres.names import Names, Statement
from proxyworker.postgres.understand.reader import understand


def held(state: SessionState, text: bytes) -> HeldOperation:
    """The statement, as it waits in a session in this state."""
    statement = Statement(text, understand(text))
    waiting = HeldOperation(
        operation=cast("Any", None), statement=statement, understood=statement.facts.operation, parameters=()
    )
    waiting.bind(state, Names())
    return waiting


def test_once_names_may_lead_elsewhere_it_is_another_operation_and_no_template_stands_for_it() -> None:
    state, text = SessionState(), b"DELETE FROM orders WHERE id = 1"
    before = held(state, text)
    move = b"SET search_path = payroll"
    state.passed(Statement(move, understand(move)))
    after = held(state, text)
    assert before.asked.template
    assert not after.asked.template
    assert after.asked.accesses == before.asked.accesses
    assert after.digest != before.digest


def test_what_the_target_reports_is_part_of_what_is_approved_and_of_its_template() -> None:
    state, text = SessionState(), b"DELETE FROM orders WHERE day = '01/02/2026'"
    state.heed("DateStyle", "ISO, MDY")
    state.heed("application_name", "one")
    before = held(state, text)
    state.heed("application_name", "other")
    assert held(state, text).digest == before.digest
    state.heed("DateStyle", "ISO, DMY")
    after = held(state, text)
    assert after.digest != before.digest
    assert "" != after.asked.template != before.asked.template
    state.heed("DateStyle", "ISO, MDY")
    assert (held(state, text).digest, held(state, text).asked) == (before.digest, before.asked)


def test_what_may_have_changed_a_setting_counts_until_the_target_has_told_of_all() -> None:
    state, text = SessionState(), b"DELETE FROM orders WHERE id = 1"
    before = held(state, text)
    for passed, counts in ((b"SELECT 1", False), (b"SET TimeZone = 'Asia/Tokyo'", True), (b"SELECT now()", True)):
        state.passed(Statement(passed, understand(passed)))
        assert (held(state, text).digest != before.digest) is counts
    state.settled(is_within=False)
    assert held(state, text).digest == before.digest


def test_a_name_that_a_text_prepares_twice_is_all_that_it_was() -> None:
    text = b"PREPARE a AS DELETE FROM t; EXECUTE a; DEALLOCATE a; PREPARE a AS SELECT 1"
    (executed,) = executed_by(understand(text), Names())
    assert executed.facts.operation.verb == "delete, select"
