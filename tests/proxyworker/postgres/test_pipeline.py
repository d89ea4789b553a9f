"""Which answer ends which operation, as scripts: this was forwarded, that is answered, these are over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxyworker.contract import OutcomeStatus
from proxyworker.gate.record import RecordedOperation
from proxyworker.postgres.errors import TargetBrokeProtocol
from proxyworker.postgres.pipeline import MAX_STEPS, NOT_EXECUTED, Expected, Pipeline, Step
from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.errors import MalformedMessage
from tests.vectors.messages import (
    BOUND,
    CLOSED,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    EMPTY,
    FUNCTION_RESULT,
    NO_DATA,
    NOTICE,
    PARAMETERS,
    PARSED,
    READY,
    READY_FAILED,
    READY_IN_TRANSACTION,
    ROW,
    SUSPENDED,
    columns,
    error,
    tag,
)
from tests.vectors.postgres import frame


class Script:
    """A pipeline, and what went on in it."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(backend.IDLE)
        self.operations: list[RecordedOperation] = []
        self.done: list[tuple[Step, bool]] = []

    def operation(self) -> RecordedOperation:
        operation = RecordedOperation("session", len(self.operations) + 1, 0)
        self.operations.append(operation)
        return operation

    def push(self, *steps: Step, operation: RecordedOperation | None = None) -> None:
        for step in steps:
            self.pipeline.push(Expected(step, operation, on_done=self.note(step)))

    def note(self, step: Step) -> Callable[[bool], None]:
        return lambda succeeded: self.done.append((step, succeeded))

    def query(self) -> RecordedOperation:
        operation = self.operation()
        self.push(Step.QUERY, operation=operation)
        return operation

    def extended(self) -> RecordedOperation:
        operation = self.operation()
        self.push(Step.PARSE, Step.BIND, Step.DESCRIBE, Step.EXECUTE, operation=operation)
        return operation

    def refuse(self, said: bytes = b"<no>", *, with_ready: bool) -> RecordedOperation:
        operation = self.operation()
        operation.fail("42501", "denied")
        self.pipeline.push(Expected(Step.REFUSAL, operation, refusal=said, with_ready=with_ready))
        return operation

    def answer(self, *messages: bytes) -> list[int]:
        """The numbers of the operations that these end."""
        for message in messages:
            self.pipeline.answer(message[0], message, 0, len(message), 1)
        return self.take()

    def is_skipping(self) -> bool:
        return self.pipeline.is_skipping

    def is_full(self) -> bool:
        return self.pipeline.is_full

    def take(self) -> list[int]:
        finished, self.pipeline.finished = self.pipeline.finished, []
        return [operation.number for operation in finished]


@pytest.fixture
def script() -> Script:
    return Script()


# ------------------------------------------------------------ simple query


def said(script: Script) -> bytes:
    """What the agent is told now."""
    return b"".join(text for _, text in script.pipeline.take_refusals())


def test_a_query_ends_with_ready_and_not_before(script: Script) -> None:
    select = script.query()
    assert script.pipeline.current is select
    assert script.answer(columns("id", "name"), ROW, ROW, tag("SELECT 2")) == []
    assert script.answer(READY) == [1]
    assert (select.status, select.rows, select.tags, select.columns) == (
        OutcomeStatus.OK,
        2,
        ["SELECT 2"],
        ("id", "name"),
    )
    assert script.pipeline.is_idle
    assert script.pipeline.current is None


def test_a_query_of_several_statements_has_all_their_tags_and_rows(script: Script) -> None:
    several = script.query()
    answers = (columns("a"), ROW, tag("SELECT 1"), tag("UPDATE 5"), columns("b"), ROW, ROW, tag("SELECT 2"), EMPTY)
    assert script.answer(*answers, READY) == [1]
    assert several.tags == ["SELECT 1", "UPDATE 5", "SELECT 2"]
    assert several.rows == 1 + 5 + 2
    assert several.columns == ("a",)


def test_rows_count_by_run(script: Script) -> None:
    select = script.query()
    script.pipeline.answer(backend.DATA_ROW, ROW * 1_000, 0, len(ROW) * 1_000, 1_000)
    script.pipeline.answer(backend.DATA_ROW, ROW, 0, 3, 0)
    script.answer(tag("SELECT 1000"), READY)
    assert select.rows == 1_000


def test_queries_one_behind_the_other_end_in_order(script: Script) -> None:
    first, second = script.query(), script.query()
    assert script.answer(tag("SELECT 0")) == []
    assert script.pipeline.current is first
    assert script.pipeline.last is second
    assert script.answer(READY, tag("INSERT 0 3"), READY) == [1, 2]
    assert (first.rows, second.rows) == (0, 3)


def test_a_failed_query_ends_with_its_own_ready(script: Script) -> None:
    failed, next_one = script.query(), script.query()
    assert script.answer(ROW, error("22012", "division by zero")) == []
    assert script.answer(READY_FAILED) == [1]
    assert (failed.status, failed.error_code, failed.error_message) == (
        OutcomeStatus.ERROR,
        "22012",
        "division by zero",
    )
    assert script.done == [(Step.QUERY, False)]
    assert not script.is_skipping()
    assert script.pipeline.transaction_status == ord("E")
    assert script.answer(tag("ROLLBACK"), READY) == [2]
    assert next_one.status is OutcomeStatus.OK


def test_an_error_without_a_code_is_no_success(script: Script) -> None:
    failed = script.query()
    assert script.answer(error(""), READY) == [1]
    assert failed.status is OutcomeStatus.ERROR
    assert script.done == [(Step.QUERY, False)]


def test_a_function_call_ends_with_ready(script: Script) -> None:
    script.push(Step.FUNCTION, operation=script.operation())
    assert script.answer(FUNCTION_RESULT) == []
    assert script.answer(READY) == [1]


# ------------------------------------------------------------ extended query


def test_an_execution_ends_with_its_own_tag_before_the_sync(script: Script) -> None:
    insert = script.extended()
    script.push(Step.SYNC)
    assert script.answer(PARSED, BOUND, NO_DATA) == []
    assert script.answer(tag("INSERT 0 7")) == [1]
    assert (insert.rows, insert.tags) == (7, ["INSERT 0 7"])
    assert script.answer(READY) == []
    assert script.done == [(step, True) for step in (Step.PARSE, Step.BIND, Step.DESCRIBE, Step.EXECUTE, Step.SYNC)]
    assert script.pipeline.is_idle


def test_a_described_statement_gives_parameters_before_columns(script: Script) -> None:
    prepare = script.operation()
    script.push(Step.PARSE, Step.DESCRIBE, operation=prepare)
    assert script.answer(PARSED, PARAMETERS) == []
    assert script.answer(columns("id")) == [1]
    assert prepare.columns == ("id",)


def test_a_suspended_portal_ends_one_execution_and_can_go_on(script: Script) -> None:
    first, second = script.operation(), script.operation()
    script.push(Step.BIND, Step.EXECUTE, operation=first)
    script.push(Step.EXECUTE, operation=second)
    assert script.answer(BOUND, ROW, ROW, SUSPENDED) == [1]
    assert script.answer(ROW, tag("SELECT 1")) == [2]
    assert (first.rows, first.tags) == (2, [])
    assert (second.rows, second.tags) == (1, ["SELECT 1"])


def test_an_empty_query_ends_an_execution(script: Script) -> None:
    script.extended()
    assert script.answer(PARSED, BOUND, NO_DATA, EMPTY) == [1]


def test_a_close_belongs_to_no_operation(script: Script) -> None:
    script.push(Step.CLOSE)
    assert script.pipeline.current is None
    assert script.answer(CLOSED) == []
    assert script.pipeline.is_idle


def test_an_error_in_a_pipeline_skips_all_until_the_sync(script: Script) -> None:
    first, failed, skipped = script.extended(), script.extended(), script.extended()
    script.push(Step.SYNC)
    after = script.extended()
    assert script.answer(PARSED, BOUND, NO_DATA, tag("INSERT 0 1")) == [1]
    assert script.answer(PARSED, error("23505", "duplicate key")) == [2, 3]
    assert first.status is OutcomeStatus.OK
    assert (failed.status, failed.error_code) == (OutcomeStatus.ERROR, "23505")
    assert (skipped.status, skipped.error_code, skipped.error_message) == (OutcomeStatus.ERROR, "", NOT_EXECUTED)
    assert not script.is_skipping()
    assert script.answer(READY, PARSED, BOUND, NO_DATA, tag("SELECT 0")) == [4]
    assert after.status is OutcomeStatus.OK


def test_what_is_forwarded_after_an_error_is_skipped_at_once_until_the_sync(script: Script) -> None:
    script.extended()
    assert script.answer(error("42601")) == [1]
    assert script.is_skipping()
    query = script.query()
    assert script.take() == [2]
    assert query.error_message == NOT_EXECUTED
    script.push(Step.SYNC)
    assert not script.is_skipping()
    after = script.extended()
    assert script.answer(READY, PARSED, BOUND, NO_DATA, tag("SELECT 0")) == [3]
    assert after.status is OutcomeStatus.OK


def test_a_skipped_parse_and_its_bind_end_their_operation_once(script: Script) -> None:
    script.extended()
    assert script.answer(error("42601")) == [1]
    loose = Expected(Step.PARSE, on_done=script.note(Step.PARSE))
    script.pipeline.push(loose)
    operation = script.operation()
    script.pipeline.attach(loose, operation)
    script.push(Step.BIND, operation=operation)
    assert script.take() == [2]
    assert (operation.status, operation.error_message) == (OutcomeStatus.ERROR, NOT_EXECUTED)
    assert script.done.count((Step.PARSE, False)) == 2  # the first operation's, and the loose one's


def test_a_commit_that_fails_at_the_sync_belongs_to_the_operation_attached_to_it(script: Script) -> None:
    insert = script.extended()
    script.push(Step.SYNC)
    assert script.answer(PARSED, BOUND, NO_DATA, tag("INSERT 0 1")) == [1]
    assert script.pipeline.is_at_sync
    commit = script.operation()
    script.pipeline.attach_first(commit)
    assert script.pipeline.current is commit
    assert script.answer(error("23503", "deferred")) == []
    assert script.answer(READY) == [2]
    assert (insert.status, commit.status, commit.error_code) == (OutcomeStatus.OK, OutcomeStatus.ERROR, "23503")
    assert script.done[-1] == (Step.SYNC, False)


# ------------------------------------------------------------ COPY


def test_copy_out_counts_by_its_tag(script: Script) -> None:
    copy = script.query()
    assert script.answer(COPY_OUT, COPY_DATA, COPY_DATA, COPY_DONE, tag("COPY 2"), READY) == [1]
    assert (copy.rows, copy.tags) == (2, ["COPY 2"])


def test_copy_in_belongs_to_the_last_operation_that_waits(script: Script) -> None:
    copy = script.query()
    script.answer(COPY_IN)
    assert script.pipeline.last is copy
    assert script.answer(tag("COPY 5"), READY) == [1]
    assert copy.rows == 5
    assert script.pipeline.last is None


def test_a_copy_by_the_extended_protocol_ends_with_its_tag(script: Script) -> None:
    copy = script.extended()
    script.push(Step.SYNC)
    script.answer(PARSED, BOUND, NO_DATA, COPY_IN)
    assert script.pipeline.last is copy
    assert script.answer(error("57014", "COPY failed")) == [1]
    assert script.pipeline.last is None


@pytest.mark.parametrize("before_it_is_known", [0, 1, 2])
def test_a_sync_among_the_rows_of_a_copy_is_no_end(script: Script, before_it_is_known: int) -> None:
    copy = script.extended()
    script.push(*[Step.SYNC] * before_it_is_known)
    script.answer(PARSED, BOUND, NO_DATA, COPY_IN)
    script.push(*[Step.SYNC] * (2 - before_it_is_known))
    assert script.pipeline.last is copy
    script.pipeline.copy_ended()
    script.push(Step.SYNC)
    assert script.answer(tag("COPY 1"), READY) == [1]
    assert script.pipeline.is_idle
    with pytest.raises(TargetBrokeProtocol):
        script.answer(READY)


def test_the_sync_behind_a_copy_that_was_sent_at_once_is_its_end(script: Script) -> None:
    script.extended()
    script.push(Step.SYNC)
    script.pipeline.copy_ended()
    script.push(Step.SYNC)
    later = script.query()
    assert script.answer(PARSED, BOUND, NO_DATA, COPY_IN, tag("COPY 1"), READY) == [1]
    assert script.pipeline.current is later


@pytest.mark.parametrize("was_read", [True, False])
def test_the_sync_behind_a_copy_that_fails_may_have_been_read_or_not(script: Script, was_read: bool) -> None:
    script.extended()
    script.push(Step.SYNC)
    assert script.answer(PARSED, BOUND, NO_DATA, COPY_IN, error("23505")) == [1]
    if was_read:
        script.push(Step.SYNC)
    script.answer(READY)
    assert script.pipeline.is_idle
    assert not script.pipeline.is_skipping
    script.query()
    assert script.answer(tag("SELECT 1"), READY) == [2]


# ------------------------------------------------------------ refusals


def test_a_refusal_is_said_at_once_when_nothing_is_under_way(script: Script) -> None:
    script.refuse(with_ready=True)
    assert said(script) == b"<no>" + READY
    assert script.take() == [1]
    assert said(script) == b""


def test_a_refusal_waits_for_the_answers_before_it(script: Script) -> None:
    script.query()
    script.refuse(with_ready=True)
    script.query()
    assert said(script) == b""
    script.answer(tag("BEGIN"))
    assert said(script) == b""
    assert script.answer(READY_IN_TRANSACTION) == [1]
    assert said(script) == b"<no>" + READY_IN_TRANSACTION
    assert script.take() == [2]
    assert script.answer(tag("COMMIT"), READY) == [3]


def test_a_refusal_in_a_pipeline_is_said_without_ready(script: Script) -> None:
    script.extended()
    script.refuse(with_ready=False)
    script.push(Step.SYNC)
    script.answer(PARSED, BOUND, NO_DATA)
    assert said(script) == b""
    assert script.answer(tag("SELECT 0")) == [1]
    assert said(script) == b"<no>"
    assert script.take() == [2]
    assert script.answer(READY) == []
    assert script.pipeline.is_idle


def test_refusals_one_behind_the_other_are_said_together(script: Script) -> None:
    script.refuse(b"<1>", with_ready=True)
    script.refuse(b"<2>", with_ready=True)
    assert said(script) == b"<1>" + READY + b"<2>" + READY
    assert script.take() == [1, 2]


def test_a_refusal_behind_an_error_is_skipped_and_stays_a_refusal(script: Script) -> None:
    script.extended()
    refused = script.refuse(with_ready=False)
    script.push(Step.SYNC)
    assert script.answer(error("42601")) == [1, 2]
    assert said(script) == b""
    assert (refused.error_code, refused.error_message) == ("42501", "denied")
    script.answer(READY)
    script.refuse(with_ready=True)
    assert said(script) == b"<no>" + READY


# ------------------------------------------------------------ endings and broken targets


def test_fatal_in_the_middle_fails_what_runs_and_leaves_the_rest_unanswered(script: Script) -> None:
    running, waiting = script.query(), script.query()
    assert script.answer(error("57P01", "terminating connection", severity="FATAL")) == []
    assert (running.status, running.error_code) == (OutcomeStatus.ERROR, "57P01")
    assert waiting.status is OutcomeStatus.OK
    assert (running.outstanding, waiting.outstanding) == (1, 1)


def test_fatal_in_a_pipeline_does_not_call_what_waits_skipped(script: Script) -> None:
    script.extended()
    waiting = script.extended()
    assert script.answer(error("57P01", severity="FATAL")) == []
    assert waiting.status is OutcomeStatus.OK
    assert not script.is_skipping()


def test_notices_and_errors_to_an_idle_session_end_nothing(script: Script) -> None:
    assert script.answer(NOTICE, frame("A", b"\x00\x00\x00\x01channel\x00\x00"), frame("S", b"a\x00b\x00")) == []
    assert script.answer(error("57P01", severity="FATAL")) == []
    assert script.pipeline.is_idle


def test_notices_may_come_between_any_messages(script: Script) -> None:
    script.extended()
    assert script.answer(NOTICE, PARSED, NOTICE, BOUND, NO_DATA, NOTICE, tag("SELECT 0")) == [1]


@pytest.mark.parametrize(
    "message",
    [
        ROW,
        COPY_DATA,
        PARSED,
        BOUND,
        CLOSED,
        NO_DATA,
        EMPTY,
        SUSPENDED,
        columns("a"),
        tag("SELECT 1"),
        READY,
        frame("?"),
    ],
    ids=lambda message: chr(message[0]),
)
def test_what_answers_nothing_breaks_the_protocol(script: Script, message: bytes) -> None:
    with pytest.raises(TargetBrokeProtocol):
        script.answer(message)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step.QUERY, PARSED),
        (Step.QUERY, SUSPENDED),
        (Step.PARSE, BOUND),
        (Step.PARSE, tag("SELECT 1")),
        (Step.PARSE, READY),
        (Step.BIND, columns("a")),
        (Step.DESCRIBE, tag("SELECT 1")),
        (Step.EXECUTE, columns("a")),
        (Step.EXECUTE, READY),
        (Step.CLOSE, PARSED),
        (Step.SYNC, tag("SELECT 1")),
        (Step.SYNC, EMPTY),
        (Step.QUERY, frame("?")),
        (Step.QUERY, frame("Z")),
        (Step.QUERY, frame("Z", b"II")),
    ],
)
def test_an_answer_to_something_else_breaks_the_protocol(script: Script, step: Step, message: bytes) -> None:
    script.push(step, operation=script.operation())
    with pytest.raises(TargetBrokeProtocol):
        script.answer(message)
    assert script.take() == []


@pytest.mark.parametrize("message", [frame("C", b"SELECT 1"), frame("T", b"\x00"), frame("E", b"S")])
def test_a_malformed_answer_is_malformed(script: Script, message: bytes) -> None:
    script.query()
    with pytest.raises(MalformedMessage):
        script.answer(message)


def test_a_pipeline_is_full_at_its_bound(script: Script) -> None:
    script.push(*[Step.CLOSE] * (MAX_STEPS - 1))
    assert not script.is_full()
    script.push(Step.CLOSE)
    assert script.is_full()
    script.answer(CLOSED)
    assert not script.is_full()
