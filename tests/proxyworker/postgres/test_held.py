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


def test_a_name_that_a_text_prepares_twice_is_all_that_it_was() -> None:
    text = b"PREPARE a AS DELETE FROM t; EXECUTE a; DEALLOCATE a; PREPARE a AS SELECT 1"
    (executed,) = executed_by(understand(text), Names())
    assert executed.facts.operation.verb == "delete, select"
