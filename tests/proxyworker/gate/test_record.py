"""One session's record: intents before outcomes, content with its digest, and nothing lost at the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from policies.engine import SessionPolicy, Target
from proxyworker.contract import (
    MAX_RECORDED_PARAMETER_BYTES,
    MAX_RECORDED_TEXT_BYTES,
    Direction,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Parameter,
    Record,
    SessionClosed,
    SessionGrant,
    SessionOpened,
    TlsFacts,
)
from proxyworker.gate.content import CHUNK_BYTES, INLINE_BYTES, ContentPress
from proxyworker.gate.errors import RecordNotKept
from proxyworker.gate.record import (
    MAX_RECORDED_ERROR_CHARACTERS,
    MAX_RECORDED_TAGS,
    NO_OPERATION,
    PRESS_HIGH_BYTES,
    RecordedOperation,
    SessionRecorder,
)
from proxyworker.journal import Codec, ContentPiece, Journal, JournalFull
from tests.proxyworker.journal.disk import read_all
from tests.proxyworker.records import AT


class Recording:
    """A session's recorder, and what it told its owner."""

    def __init__(self, journal: Journal, grant: SessionGrant, lane: ThreadPoolExecutor) -> None:
        self.journal = journal
        self.grant = grant
        self.decision = SessionPolicy(
            grant.policy, principal=grant.principal, target=Target(name=grant.target.name)
        ).admits(now=0.0)
        self.levels: list[bool] = []
        self.failures: list[RecordNotKept] = []
        self.recorder = SessionRecorder(
            grant=grant,
            journal=journal,
            lane=lane,
            clock=lambda: AT,
            on_level=self.levels.append,
            on_failure=self.failures.append,
        )

    def begin(self, text: bytes = b"SELECT 1", *parameters: tuple[bytes | None, bool]) -> RecordedOperation:
        return self.recorder.begin("query", text, decision=self.decision, parameters=parameters)

    async def finish(self, operation: RecordedOperation) -> None:
        """Finish, and wait for the outcome where it comes late."""
        recorded = asyncio.get_running_loop().create_future()
        operation.on_recorded = recorded.set_result
        is_written = self.recorder.finish(operation)
        self.recorder.flush()
        if not is_written:
            assert await recorded <= self.journal.end

    async def close(self, reason: str = "over") -> None:
        closed = asyncio.get_running_loop().create_future()
        self.recorder.close(reason, closed.set_result)
        await self.journal.wait_durable(await closed)

    def on_disk(self) -> tuple[list[Record], list[ContentPiece]]:
        """The session's records and content."""
        records, content = read_all(Path(self.journal.folder))
        return records[1:], content

    def outcomes(self) -> list[OperationOutcome]:
        return [record for record in self.on_disk()[0] if isinstance(record, OperationOutcome)]

    def intents(self) -> list[OperationIntent]:
        return [record for record in self.on_disk()[0] if isinstance(record, OperationIntent)]

    def content(self, op: int, direction: Direction = Direction.TO_AGENT) -> bytes:
        """The operation's content, put together and checked for gaps."""
        whole = b""
        for piece in self.on_disk()[1]:
            if (piece.op, piece.direction) == (op, direction):
                assert piece.offset == len(whole)
                data = piece.data
                if piece.codec is not Codec.RAW:
                    data = zstandard.ZstdDecompressor().decompress(data)
                assert len(data) == piece.raw_bytes
                whole += data
        return whole


@pytest.fixture
async def recording(journal: Journal, grant: SessionGrant) -> AsyncIterator[Recording]:
    press = ContentPress()
    yield Recording(journal, grant, press.lane())
    await asyncio.to_thread(press.close)


async def test_an_operation_is_an_intent_and_then_an_outcome(recording: Recording) -> None:
    recording.recorder.opened(recording.grant, client_address="127.0.0.1:5", client_name="psql", tls=TlsFacts())
    operation = recording.begin(b"SELECT $1", (b"7", False), (b"\x01\xff", True), (None, True))
    assert recording.recorder.flush() == recording.journal.end
    assert recording.recorder.flush() == 0
    operation.rows, operation.columns = 2, ("id",)
    operation.tags.append("SELECT 2")
    recording.recorder.shown(operation, b"row 1")
    recording.recorder.shown(operation, b"row 2")
    await recording.finish(operation)
    await recording.close("the agent left")
    records, content = recording.on_disk()
    opened, intent, outcome, closed = records
    assert isinstance(opened, SessionOpened)
    assert opened.policy_version == "shop@1"
    assert isinstance(intent, OperationIntent)
    assert (intent.op, intent.text, intent.text_sha256) == (1, "SELECT $1", sha256(b"SELECT $1").digest())
    assert intent.parameters == (Parameter("7"), Parameter("01ff", binary=True), Parameter(None, binary=True))
    assert isinstance(outcome, OperationOutcome)
    assert (outcome.op, outcome.status, outcome.rows, outcome.tags) == (1, OutcomeStatus.OK, 2, ("SELECT 2",))
    assert (outcome.bytes_out, outcome.content_sha256) == (10, sha256(b"row 1row 2").digest())
    assert (outcome.bytes_in, outcome.content_in_sha256, outcome.columns) == (0, b"", ("id",))
    assert closed == SessionClosed(recording.grant.session_id, AT, "the agent left", 1)
    assert [(piece.codec, piece.data) for piece in content] == [(Codec.RAW, b"row 1row 2")]


async def test_no_content_has_no_digest(recording: Recording) -> None:
    await recording.finish(recording.begin())
    (outcome,) = recording.outcomes()
    assert (outcome.bytes_out, outcome.content_sha256) == (0, b"")


@pytest.mark.parametrize(
    "parts",
    [
        [bytes(INLINE_BYTES + 1)],
        [os.urandom(CHUNK_BYTES * 2 + 17)],
        [b"some row " * 1_000] * 300,
        [b"x"] * (INLINE_BYTES + 1),
        [bytes(CHUNK_BYTES), b"", b"tail"],
        [os.urandom(3 * 1024 * 1024)],
    ],
    ids=["just not inline", "incompressible", "rows", "bytes", "tail", "longer than a piece may be"],
)
async def test_much_content_comes_whole_out_of_its_chunks(recording: Recording, parts: list[bytes]) -> None:
    operation = recording.begin()
    recording.recorder.flush()
    for part in parts:
        recording.recorder.shown(operation, part)
    await recording.finish(operation)
    whole = b"".join(parts)
    assert recording.content(1) == whole
    (outcome,) = recording.outcomes()
    assert (outcome.bytes_out, outcome.content_sha256) == (len(whole), sha256(whole).digest())
    assert recording.failures == []


async def test_a_late_outcome_says_so_and_comes_behind_its_content(recording: Recording) -> None:
    operation = recording.begin()
    recording.recorder.flush()
    recording.recorder.shown(operation, bytes(CHUNK_BYTES))
    recorded = asyncio.get_running_loop().create_future()
    operation.on_recorded = recorded.set_result
    assert not recording.recorder.finish(operation)
    assert recording.recorder.unfinished == []
    assert recording.outcomes() == []
    assert await recorded == recording.journal.end
    assert len(recording.outcomes()) == 1


async def test_a_long_text_is_cut_in_its_intent_and_whole_in_the_content(recording: Recording) -> None:
    text = os.urandom(1024 * 1024).hex().encode()
    operation = recording.begin(text)
    recording.recorder.flush()
    await recording.finish(operation)
    (intent,) = recording.intents()
    assert intent.text.encode() == text[:MAX_RECORDED_TEXT_BYTES]
    assert (intent.text_bytes, intent.text_sha256) == (len(text), sha256(text).digest())
    (outcome,) = recording.outcomes()
    assert (outcome.bytes_in, outcome.content_in_sha256) == (len(text), sha256(text).digest())
    assert recording.content(1, Direction.FROM_AGENT) == text


async def test_a_long_parameter_is_cut_in_its_intent_and_whole_in_the_content(recording: Recording) -> None:
    value = b"v" * (MAX_RECORDED_PARAMETER_BYTES + 10)
    operation = recording.begin(b"INSERT", (value, False), (value, True), (b"short", False))
    await recording.finish(operation)
    (intent,) = recording.intents()
    text, binary, short = intent.parameters
    assert text == Parameter("v" * MAX_RECORDED_PARAMETER_BYTES, truncated_bytes=10)
    assert (binary.value, binary.truncated_bytes) == (value[:MAX_RECORDED_PARAMETER_BYTES].hex(), 10)
    assert short == Parameter("short")
    assert recording.content(1, Direction.FROM_AGENT) == value * 2


async def test_what_is_in_no_encoding_is_recorded_escaped(recording: Recording) -> None:
    await recording.finish(recording.begin(b"SELECT '\xff'", (b"\xfe", False)))
    (intent,) = recording.intents()
    assert (intent.text, intent.parameters) == ("SELECT '\\xff'", (Parameter("\\xfe"),))


async def test_long_errors_and_many_tags_are_cut(recording: Recording) -> None:
    operation = recording.begin()
    operation.fail("22012", "x" * 5_000)
    operation.fail("42601", "a second error")
    operation.tags += ["SELECT 1"] * 500
    await recording.finish(operation)
    (outcome,) = recording.outcomes()
    assert (outcome.status, outcome.error_code) == (OutcomeStatus.ERROR, "22012")
    assert outcome.error_message == "x" * MAX_RECORDED_ERROR_CHARACTERS
    assert len(outcome.tags) == MAX_RECORDED_TAGS


@pytest.mark.parametrize("size", [10, INLINE_BYTES + 1, 3 * CHUNK_BYTES + 5])
async def test_what_was_sent_can_be_secured_before_the_outcome(recording: Recording, size: int) -> None:
    operation = recording.begin(b"COPY t FROM STDIN")
    recording.recorder.flush()
    data = os.urandom(size)
    recording.recorder.sent(operation, data)
    secured = asyncio.get_running_loop().create_future()
    recording.recorder.secure_sent(operation, secured.set_result)
    position = await secured
    assert 0 < position <= recording.journal.end
    assert recording.content(1, Direction.FROM_AGENT) == data
    assert recording.outcomes() == []
    await recording.finish(operation)
    (outcome,) = recording.outcomes()
    assert (outcome.bytes_in, outcome.content_in_sha256) == (size, sha256(data).digest())
    assert recording.content(1, Direction.FROM_AGENT) == data


async def test_nothing_sent_is_secured_at_once(recording: Recording) -> None:
    secured: list[int] = []
    recording.recorder.secure_sent(recording.begin(), secured.append)
    assert secured == [0]


async def test_what_is_shown_outside_of_operations_is_content_of_none(recording: Recording) -> None:
    recording.recorder.aside(b"notification")
    recording.recorder.aside(bytes(2 * 1024 * 1024))
    recording.recorder.flush()
    assert recording.content(NO_OPERATION) == b"notification" + bytes(2 * 1024 * 1024)


async def test_closing_makes_what_is_unfinished_unknown_and_is_the_last_record(recording: Recording) -> None:
    done, failed, running = recording.begin(), recording.begin(), recording.begin()
    recording.recorder.flush()
    recording.recorder.shown(running, os.urandom(CHUNK_BYTES + 1))
    failed.fail("57P01", "shut down")
    await recording.finish(done)
    assert recording.recorder.unfinished == [failed, running]
    await recording.close("the target closed the connection")
    records, _ = recording.on_disk()
    assert [(one.op, one.status) for one in recording.outcomes()] == [
        (1, OutcomeStatus.OK),
        (2, OutcomeStatus.ERROR),
        (3, OutcomeStatus.UNKNOWN),
    ]
    assert records[-1] == SessionClosed(recording.grant.session_id, AT, "the target closed the connection", 3)


async def test_closing_waits_for_content_that_is_in_the_press(recording: Recording) -> None:
    operation = recording.begin()
    recording.recorder.shown(operation, os.urandom(CHUNK_BYTES * 3))
    assert not recording.recorder.finish(operation)
    await recording.close()
    records, _ = recording.on_disk()
    assert [type(record) for record in records] == [OperationIntent, OperationOutcome, SessionClosed]


async def test_the_level_is_told_while_too_much_is_in_the_press(recording: Recording) -> None:
    operation = recording.begin()
    recording.recorder.flush()
    recording.recorder.shown(operation, bytes(PRESS_HIGH_BYTES))
    assert recording.levels == []
    recording.recorder.shown(operation, bytes(CHUNK_BYTES))
    assert recording.levels == [True]
    await recording.finish(operation)
    assert recording.levels == [True, False]


@pytest.fixture
def full(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def refuse(*_: object, **__: object) -> int:
            raise JournalFull("the bound is reached")

        monkeypatch.setattr(recording.journal, "append", refuse)

    return fill


async def test_a_full_journal_keeps_no_intent(recording: Recording, full: Callable[[], None]) -> None:
    full()
    recording.begin()
    with pytest.raises(RecordNotKept, match="the bound is reached"):
        recording.recorder.flush()


async def test_a_journal_that_is_full_when_content_comes_tells_the_owner(
    recording: Recording, full: Callable[[], None]
) -> None:
    operation = recording.begin()
    recording.recorder.flush()
    full()
    told = asyncio.get_running_loop().create_future()
    recording.recorder._on_failure = told.set_result
    recording.recorder.shown(operation, bytes(CHUNK_BYTES))
    assert isinstance(await told, RecordNotKept)


async def test_a_full_journal_can_not_be_closed_into(recording: Recording, full: Callable[[], None]) -> None:
    recording.begin()
    recording.recorder.flush()
    full()
    closed: list[int] = []
    with pytest.raises(RecordNotKept):
        recording.recorder.close("over", closed.append)
    assert closed == []
