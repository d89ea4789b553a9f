"""The agent's messages as operations, as scripts: this is asked, that is answered, this is on record.

Recorder and journal are real; the target is the script.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from unittest.mock import Mock

import pytest

from policies.engine import Policy, Principal
from proxyworker.contract import (
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Parameter,
    Secret,
    SessionGrant,
    SessionLimits,
    TargetEndpoint,
    TlsMode,
    UpstreamCredential,
)
from proxyworker.gate.decide import Decider
from proxyworker.gate.meter import BudgetLink, Budgets
from proxyworker.gate.record import SessionRecorder
from proxyworker.postgres.names import TooManyNames
from proxyworker.postgres.pipeline import NOT_EXECUTED, Pipeline
from proxyworker.postgres.requests import Requests
from proxyworker.postgres.values import CountedValues
from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.errors import MalformedMessage
from tests.proxyworker.postgres.gate import EVERYTHING, RememberingJournal
from tests.proxyworker.records import AT, session_id
from tests.vectors.messages import (
    BOUND,
    CLOSED,
    FLUSH,
    FUNCTION_RESULT,
    NO_DATA,
    PARAMETERS,
    PARSED,
    READY,
    READY_FAILED,
    READY_IN_TRANSACTION,
    ROW,
    SUSPENDED,
    SYNC,
    TERMINATE,
    bind,
    close_portal,
    close_statement,
    columns,
    describe_portal,
    describe_statement,
    error,
    execute,
    function_call,
    parse,
    query,
    tag,
)
from tests.vectors.postgres import frame

ALLOW = Policy(version="1", rules=(EVERYTHING,))
DENY = Policy(version="2", rules=())

RecordT = TypeVar("RecordT", OperationIntent, OperationOutcome)


class Play:
    """A session without sockets: it takes, forwards, answers and records in the session's order."""

    def __init__(self, journal: RememberingJournal, lane: ThreadPoolExecutor) -> None:
        self._journal = journal
        grant = SessionGrant(
            request_id=1,
            session_id=session_id(1),
            tenant_id=session_id(2),
            principal=Principal(id=session_id(3), name="reporter"),
            target=TargetEndpoint(session_id(4), "shop", "postgres", "localhost", 5432, "shop", TlsMode.DISABLE),
            credential=UpstreamCredential("app", Secret("")),
            policy=ALLOW,
            limits=SessionLimits(),
            expires_at=AT + 60,
        )
        self.decider = Decider(grant, lambda: AT)
        self.pipeline = Pipeline(backend.IDLE)
        self._recorder = SessionRecorder(
            grant=grant,
            journal=journal,
            lane=lane,
            clock=lambda: AT,
            on_level=lambda _: None,
            on_failure=lambda error: pytest.fail(str(error)),
        )
        self.barriers_over = 0
        self.requests = Requests(
            recorder=self._recorder,
            decider=self.decider,
            meter=CountedValues(Budgets(Mock(spec=BudgetLink), lambda: AT).meter(grant), grant),
            pipeline=self.pipeline,
            on_barrier_over=self._count_barrier,
            on_charged=lambda _: pytest.fail("there is no limit"),
        )

    def _count_barrier(self) -> None:
        self.barriers_over += 1

    def ask(self, *messages: bytes) -> str:
        """The agent sends these in one go. Returns the types of those that are forwarded."""
        forwarded = ""
        for message in messages:
            assert not self.requests.is_at_barrier
            if self.requests.take(message[0], message, 0, len(message)):
                forwarded += chr(message[0])
            else:
                self._dispatch()
        self._dispatch()
        return forwarded

    def _dispatch(self) -> None:
        self.requests.settle_batch()
        self._recorder.flush()
        self._record()

    def answer(self, *messages: bytes) -> bytes:
        """The target sends these. Returns the refusals that are said among them."""
        said = b""
        for message in messages:
            self.pipeline.answer(message[0], message, 0, len(message), 1)
            said += b"".join(text for _, text in self.pipeline.take_refusals())
        self._record()
        if self.pipeline.is_idle and self.pipeline.transaction_status == backend.IDLE:
            self.requests.transaction_ended()
        return said

    def is_waiting(self) -> bool:
        """Whether what comes next has to wait for an answer."""
        return self.requests.is_at_barrier

    def refused(self) -> bytes:
        """What is said before anything else is answered."""
        said = b"".join(text for _, text in self.pipeline.take_refusals())
        self._record()
        return said

    def _record(self) -> None:
        finished, self.pipeline.finished = self.pipeline.finished, []
        for operation in finished:
            assert self._recorder.finish(operation)
        self._recorder.flush()

    @property
    def intents(self) -> list[tuple[str, str]]:
        """Kind and text of every intent."""
        return [(one.kind, one.text) for one in self._of(OperationIntent)]

    @property
    def parameters(self) -> list[tuple[Parameter, ...]]:
        return [one.parameters for one in self._of(OperationIntent)]

    @property
    def outcomes(self) -> dict[int, tuple[OutcomeStatus, str, tuple[str, ...]]]:
        """Status, error and tags by operation."""
        outcomes = self._of(OperationOutcome)
        assert len({one.op for one in outcomes}) == len(outcomes)
        return {one.op: (one.status, one.error_code or one.error_message, one.tags) for one in outcomes}

    def _of(self, kind: type[RecordT]) -> list[RecordT]:
        return [record for record in self._journal.records if isinstance(record, kind)]


@pytest.fixture
async def play(tmp_path: Path) -> AsyncIterator[Play]:
    journal = RememberingJournal.open(
        tmp_path / "journal",
        worker="test",
        bound_bytes=1 << 30,
        clock=lambda: AT,
        loop=asyncio.get_running_loop(),
        segment_bytes=1 << 20,
    )
    assert isinstance(journal, RememberingJournal)
    journal.records = []
    with ThreadPoolExecutor(1) as lane:
        yield Play(journal, lane)
    await journal.close()


OK = OutcomeStatus.OK
RAN = (PARSED, BOUND, NO_DATA, tag("SELECT 0"))


# ------------------------------------------------------------ operations


async def test_a_simple_query_is_one_operation(play: Play) -> None:
    assert play.ask(query("SELECT 1; SELECT 2")) == "Q"
    play.answer(columns("a"), ROW, tag("SELECT 1"), columns("b"), ROW, tag("SELECT 1"), READY)
    assert play.intents == [("query", "SELECT 1; SELECT 2")]
    assert play.outcomes == {1: (OK, "", ("SELECT 1", "SELECT 1"))}


async def test_parse_to_execute_is_one_operation_with_its_parameters(play: Play) -> None:
    sent = (parse("SELECT $1"), bind(values=[b"7", None]), describe_portal(), execute(), SYNC)
    assert play.ask(*sent) == "PBDES"
    assert play.intents == [("execute", "SELECT $1")]
    assert play.parameters == [(Parameter("7"), Parameter(None))]
    play.answer(PARSED, BOUND, columns("a"), ROW, tag("SELECT 1"), READY)
    assert play.outcomes == {1: (OK, "", ("SELECT 1",))}


async def test_a_parse_alone_is_a_preparation_and_each_use_an_execution(play: Play) -> None:
    assert play.ask(parse("SELECT $1", "s1"), describe_statement("s1"), SYNC) == "PDS"
    play.answer(PARSED, PARAMETERS, columns("a"), READY)
    for value in (b"1", b"2"):
        assert play.ask(bind("s1", values=[value]), execute(), SYNC) == "BES"
        play.answer(BOUND, tag("SELECT 1"), READY)
    assert play.intents == [("prepare", "SELECT $1"), ("execute", "SELECT $1"), ("execute", "SELECT $1")]
    assert play.parameters == [(), (Parameter("1"),), (Parameter("2"),)]
    assert set(play.outcomes) == {1, 2, 3}


async def test_a_suspended_portal_is_an_operation_each_time_it_goes_on(play: Play) -> None:
    play.ask(query("BEGIN"))
    play.answer(tag("BEGIN"), READY_IN_TRANSACTION)
    play.ask(parse("SELECT 1"), bind(portal="p"), execute("p", 2), FLUSH)
    play.answer(PARSED, BOUND, ROW, ROW, SUSPENDED)
    play.ask(execute("p", 2), close_portal("p"), SYNC)
    play.answer(ROW, tag("SELECT 1"), CLOSED, READY_IN_TRANSACTION)
    assert play.intents[1:] == [("execute", "SELECT 1"), ("execute", "SELECT 1")]
    assert play.outcomes[3] == (OK, "", ("SELECT 1",))
    play.ask(execute("p"))
    assert play.intents[-1] == ("execute", 'FETCH FROM "p"')


async def test_a_function_call_is_an_operation(play: Play) -> None:
    assert play.ask(function_call(1598)) == "F"
    assert play.requests.has_write
    play.answer(FUNCTION_RESULT, READY)
    assert play.intents == [("function", "function 1598")]
    assert play.outcomes == {1: (OK, "", ())}


async def test_describing_what_was_prepared_before_is_an_operation(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    play.ask(describe_statement("s1"), describe_portal("nobody"), SYNC)
    assert play.intents[1:] == [("describe", "SELECT 1"), ("describe", 'FETCH FROM "nobody"')]


async def test_closing_is_forwarded_and_no_operation(play: Play) -> None:
    assert play.ask(close_statement("s1"), SYNC) == "CS"
    play.answer(CLOSED, READY)
    assert play.intents == []


async def test_the_end_is_not_forwarded_as_it_came(play: Play) -> None:
    assert play.ask(TERMINATE) == ""
    assert play.requests.is_over


@pytest.mark.parametrize("message", [frame("?"), frame("p", b"x\x00"), frame("Q", b"SELECT 1"), frame("B"), frame("d")])
async def test_a_message_that_is_none_is_malformed(play: Play, message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        play.ask(message)


@pytest.mark.parametrize(
    ("text", "is_write"), [("SELECT 1", False), ("SHOW all", False), ("DELETE FROM t", True), ("no SQL", True)]
)
async def test_what_may_write_waits_for_the_disk(play: Play, text: str, is_write: bool) -> None:
    play.ask(query(text))
    assert play.requests.has_write is is_write
    play.requests.has_write = False
    play.answer(tag("SELECT 0"), READY)
    play.ask(parse(text, "s1"), SYNC)
    assert play.requests.has_write is is_write
    play.requests.has_write = False
    play.ask(bind("s1"), execute(), SYNC)
    assert play.requests.has_write is is_write


# ------------------------------------------------------------ errors in pipelines


async def test_an_error_in_a_pipeline_marks_what_is_not_executed(play: Play) -> None:
    play.ask(
        *(parse("SELECT 1/0"), bind(), execute()),
        *(parse("SELECT 2"), bind(), execute(), SYNC),
        *(parse("SELECT 3"), bind(), execute(), SYNC),
    )
    play.answer(PARSED, BOUND, error("22012"), READY, PARSED, BOUND, tag("SELECT 1"), READY)
    assert play.outcomes == {
        1: (OutcomeStatus.ERROR, "22012", ()),
        2: (OutcomeStatus.ERROR, NOT_EXECUTED, ()),
        3: (OK, "", ("SELECT 1",)),
    }


async def test_what_comes_behind_an_error_without_sync_is_recorded_once_as_not_executed(play: Play) -> None:
    play.ask(parse("SELEC"), FLUSH)
    play.answer(error("42601"))
    assert play.ask(parse("SELECT 1"), describe_statement(), FLUSH) == "PDH"
    assert play.ask(parse("SELECT 2"), bind(), execute()) == "PBE"
    assert play.ask(SYNC) == "S"
    play.answer(READY)
    assert play.intents[:3] == [("prepare", "SELEC"), ("prepare", "SELECT 1"), ("execute", "SELECT 2")]
    assert set(play.outcomes) == set(range(1, len(play.intents) + 1))
    assert all(error == NOT_EXECUTED for op, (_, error, _) in play.outcomes.items() if op > 1)
    play.ask(parse("SELECT 3"), bind(), execute(), SYNC)
    play.answer(PARSED, BOUND, tag("SELECT 1"), READY)
    assert play.outcomes[len(play.intents)] == (OK, "", ("SELECT 1",))


async def test_a_statement_whose_parse_failed_has_no_text(play: Play) -> None:
    play.ask(parse("SELEC", "s1"), SYNC)
    play.answer(error("42601"), READY)
    play.ask(bind("s1"), execute(), SYNC)
    assert play.intents[1:] == [("execute", 'EXECUTE "s1"')]


async def test_a_portal_whose_bind_failed_leaves_its_name_to_a_cursor(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), bind("s1", "c"), SYNC, query("BEGIN; DECLARE c CURSOR FOR SELECT secret"))
    play.answer(PARSED, error("08P01"), READY, tag("BEGIN"), tag("DECLARE CURSOR"), READY_IN_TRANSACTION)
    play.ask(execute("c"), SYNC)
    assert play.intents[-1] == ("execute", 'FETCH FROM "c"')


# ------------------------------------------------------------ refusals


async def test_a_denied_query_is_refused_with_ready_and_the_next_one_may_pass(play: Play) -> None:
    play.decider.use_policy(DENY)
    assert play.ask(query("DROP TABLE t")) == ""
    play.decider.use_policy(ALLOW)
    assert play.ask(query("SELECT 1")) == "Q"
    said = play.refused()
    assert said.endswith(READY)
    refusal = backend.parse_error(said, 0, len(said) - len(READY))
    assert (refusal.severity, refusal.code) == ("ERROR", "42501")
    assert refusal.message.startswith("Narrowgate: no rule allows")
    play.answer(tag("SELECT 1"), READY)
    assert play.intents == [("query", "DROP TABLE t"), ("query", "SELECT 1")]
    assert play.outcomes == {1: (OutcomeStatus.DENIED, "42501", ()), 2: (OK, "", ("SELECT 1",))}


async def test_a_denial_in_a_pipeline_drops_all_until_the_sync(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    assert play.ask(bind("s1"), execute()) == "BE"
    play.decider.use_policy(DENY)
    assert play.ask(bind("s1"), execute(), parse("SELECT 2"), bind(), execute(), query("SELECT 3"), FLUSH) == ""
    play.decider.use_policy(ALLOW)
    assert play.ask(parse("SELECT 4"), SYNC, query("SELECT 5")) == "SQ"
    assert play.refused() == b""
    said = play.answer(BOUND, tag("SELECT 1"))
    assert backend.parse_error(said, 0, len(said)).code == "42501"
    assert play.answer(READY, tag("SELECT 1"), READY) == b""
    assert play.intents[1:] == [("execute", "SELECT 1"), ("execute", "SELECT 1"), ("query", "SELECT 5")]
    assert [play.outcomes[op][0] for op in (2, 3, 4)] == [OK, OutcomeStatus.DENIED, OK]


async def test_a_denied_parse_makes_no_statement(play: Play) -> None:
    play.decider.use_policy(DENY)
    assert play.ask(parse("SELECT 1", "s1"), bind("s1"), execute(), SYNC) == "S"
    play.decider.use_policy(ALLOW)
    said = play.refused()
    assert backend.parse_error(said, 0, len(said)).code == "42501"
    play.answer(READY)
    play.ask(bind("s1"))
    assert play.intents == [("prepare", "SELECT 1"), ("execute", 'EXECUTE "s1"')]


async def test_a_denial_behind_a_failed_operation_is_not_said(play: Play) -> None:
    play.ask(parse("SELEC"))
    play.decider.use_policy(DENY)
    assert play.ask(parse("SELECT 1"), SYNC) == "S"
    assert play.answer(error("42601"), READY) == b""
    assert play.outcomes[2] == (OutcomeStatus.DENIED, "42501", ())


@pytest.mark.parametrize(("kind", "ends_with_ready"), [("Q", True), ("P", False)])
async def test_a_message_over_the_bound_is_refused(play: Play, kind: str, ends_with_ready: bool) -> None:
    play.requests.refuse_oversized(ord(kind), 1_000)
    said = play.refused()
    assert said.endswith(READY) is ends_with_ready
    refusal = backend.parse_error(said, 0, int.from_bytes(said[1:5], "big") + 1)
    assert (refusal.code, refusal.message) == ("54000", "Narrowgate: the statement is longer than 1000 bytes")
    assert play.outcomes == {1: (OutcomeStatus.DENIED, "54000", ())}
    assert play.ask(query("SELECT 1")) == ("Q" if ends_with_ready else "")


# ------------------------------------------------------------ names and barriers


async def test_parse_of_a_taken_name_waits_and_keeps_the_old_text_when_it_fails(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    assert play.ask(parse("SELECT 2", "s1")) == "P"
    assert play.is_waiting()
    play.answer(error("42P05"))
    assert (play.requests.is_at_barrier, play.barriers_over) == (False, 1)
    play.ask(SYNC)
    play.answer(READY)
    play.ask(bind("s1"), execute(), SYNC)
    assert play.intents == [("prepare", "SELECT 1"), ("prepare", "SELECT 2"), ("execute", "SELECT 1")]


async def test_parse_of_a_taken_name_gives_the_new_text_when_it_succeeds(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    play.ask(parse("SELECT 2", "s1"))
    play.answer(PARSED)
    play.ask(bind("s1"))
    assert play.intents[-1] == ("execute", "SELECT 2")


async def test_a_closed_name_can_be_parsed_again_without_waiting(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), close_statement("s1"), parse("SELECT 2", "s1"), bind("s1"), execute(), SYNC)
    assert ("execute", "SELECT 2") in play.intents


async def test_a_skipped_parse_of_a_taken_name_waits_for_nothing(play: Play) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    play.ask(parse("SELEC"), FLUSH)
    play.answer(error("42601"))
    play.ask(parse("SELECT 2", "s1"))
    assert not play.is_waiting()
    play.ask(SYNC)
    play.answer(READY)
    play.ask(bind("s1"))
    assert play.intents[-1] == ("execute", "SELECT 1")


async def test_the_unnamed_statement_is_replaced_at_once_and_dropped_by_a_query(play: Play) -> None:
    play.ask(parse("SELECT 1"), parse("SELECT 2"), bind(), execute(), SYNC)
    play.answer(PARSED, PARSED, BOUND, tag("SELECT 1"), READY)
    play.ask(query("SELECT 3"))
    play.answer(tag("SELECT 1"), READY)
    play.ask(bind())
    assert play.intents[-1] == ("execute", 'EXECUTE ""')


async def test_a_bind_of_a_taken_portal_waits(play: Play) -> None:
    play.ask(parse("SELECT 1", "a"), parse("SELECT 2", "b"), bind("a", "p"))
    play.ask(bind("b", "p"))
    assert play.is_waiting()
    play.answer(PARSED, PARSED, BOUND, error("42P03"))
    assert not play.is_waiting()


async def test_prepare_in_sql_names_the_text_that_it_stands_in(play: Play) -> None:
    play.ask(query("PREPARE s1 AS SELECT 1"))
    assert play.is_waiting()
    play.answer(tag("PREPARE"))
    assert play.is_waiting()
    play.answer(READY)
    assert not play.is_waiting()
    play.ask(bind("s1"))
    assert play.intents[-1] == ("execute", "PREPARE s1 AS SELECT 1")


@pytest.mark.parametrize("sql", ["DEALLOCATE s1", "DEALLOCATE ALL", "DISCARD ALL", "deallocate prepare s1"])
@pytest.mark.parametrize("is_simple", [True, False])
async def test_what_sql_drops_has_no_text_any_more(play: Play, sql: str, is_simple: bool) -> None:
    play.ask(parse("SELECT 1", "s1"), SYNC)
    play.answer(PARSED, READY)
    if is_simple:
        play.ask(query(sql))
        play.answer(tag("DONE"), READY)
    else:
        play.ask(parse(sql), bind(), execute())
        assert play.is_waiting()
        play.answer(PARSED, BOUND, tag("DONE"))
        play.ask(SYNC)
        play.answer(READY)
    play.ask(bind("s1"))
    assert play.intents[-1] == ("execute", 'EXECUTE "s1"')


async def test_a_text_that_fails_may_have_changed_the_names_it_mentions(play: Play) -> None:
    # Prepared statements are in no transaction: the failure at the end takes nothing back.
    play.ask(parse("SELECT 1", "s1"), parse("SELECT 2", "s2"), SYNC)
    play.answer(PARSED, PARSED, READY)
    play.ask(query("DEALLOCATE s1; PREPARE s1 AS DELETE FROM t; SELECT 1/0"))
    play.answer(tag("DEALLOCATE"), tag("PREPARE"), error("22012"), READY_FAILED)
    play.ask(bind("s1"), bind("s2"))
    assert play.intents[-2:] == [("execute", 'EXECUTE "s1"'), ("execute", "SELECT 2")]


async def test_too_many_names_are_too_many(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyworker.postgres.names.MAX_STATEMENTS", 2)
    play.ask(parse("SELECT 1", "a"), parse("SELECT 1", "b"))
    with pytest.raises(TooManyNames):
        play.ask(parse("SELECT 1", "c"))
