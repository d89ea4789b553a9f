"""What was asked and what came of it: one session's records and content, into the journal.

An operation is begun (its intent), fed with what was sent and shown, and finished (its outcome). Records gather until
`flush` writes them all at once; an outcome whose content is still being digested follows by itself and says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from proxyworker.contract import (
    MAX_RECORDED_PARAMETER_BYTES,
    MAX_RECORDED_PARAMETERS_BYTES,
    MAX_RECORDED_TEXT_BYTES,
    ApprovalState,
    Direction,
    OperationApproval,
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
from proxyworker.gate.content import CHUNK_BYTES, ContentStream
from proxyworker.gate.errors import RecordNotKept
from proxyworker.journal import ContentPiece, Journal, JournalError

if TYPE_CHECKING:
    from policies.engine import Decision, Operation
    from proxyworker.gate.meter import Charge

#: Raw content of one session on its way through the press: above it the target is not read.
PRESS_HIGH_BYTES: Final = 4 * 1024 * 1024
PRESS_LOW_BYTES: Final = 1024 * 1024
#: An error message is for people; what is longer is in the content.
MAX_RECORDED_ERROR_CHARACTERS: Final = 1_000
#: Tags of one message with very many statements; the rest is in the content.
MAX_RECORDED_TAGS: Final = 100

#: The number of content that belongs to no operation, such as notifications to an idle session.
NO_OPERATION: Final = 0


class RecordedOperation:
    """An operation between its intent and its outcome. A protocol fills in what it learns."""

    __slots__ = (
        "charge", "columns", "error_code", "error_message", "intent", "is_finished", "number", "on_recorded",
        "on_secured", "outstanding", "position", "pressing", "rows", "sent", "shown", "started_ns", "status", "tags",
    )  # fmt: skip

    def __init__(self, session_id: str, number: int, started_ns: int) -> None:
        self.number = number
        #: As it was recorded; `SessionRecorder.begin` sets it.
        self.intent: OperationIntent
        self.started_ns = started_ns
        #: Where the journal holds the intent, once flushed.
        self.position = 0
        self.status = OutcomeStatus.OK
        self.rows = 0
        self.tags: list[str] = []
        self.columns: tuple[str, ...] = ()
        #: What limits it takes from; None: from none.
        self.charge: Charge | None = None
        self.error_code = ""
        self.error_message = ""
        self.shown = ContentStream(session_id, number, Direction.TO_AGENT)
        self.sent: ContentStream | None = None
        #: Chunks of content that are in the press.
        self.pressing = 0
        self.is_finished = False
        self.on_recorded: Callable[[int], None] | None = None
        self.on_secured: list[Callable[[int], None]] = []
        #: Messages of the protocol that belong to it and have no answer yet; the protocol counts.
        self.outstanding = 0

    def fail(self, code: str, message: str) -> None:
        """It ended with this error of the target's or of ours; the first one counts."""
        if self.status is OutcomeStatus.OK:
            self.status = OutcomeStatus.ERROR
            self.error_code = code
            self.error_message = message[:MAX_RECORDED_ERROR_CHARACTERS]


class SessionRecorder:
    """One session's way into the journal. Lives on the loop.

    `on_level` hears when content comes faster than it can be pressed and written (True) and when that is over (False).
    `on_failure` hears of a record that could not be kept outside of a call; calls raise `RecordNotKept`.
    """

    def __init__(
        self,
        *,
        grant: SessionGrant,
        journal: Journal,
        lane: ThreadPoolExecutor,
        clock: Callable[[], float],
        on_level: Callable[[bool], None],
        on_failure: Callable[[RecordNotKept], None],
    ) -> None:
        self._session_id = grant.session_id
        self._journal = journal
        self._lane = lane
        self._clock = clock
        self._on_level = on_level
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._records: list[Record] = []
        self._content: list[ContentPiece] = []
        self._operations = 0
        self._cut: list[RecordedOperation] = []
        self._unfinished: dict[int, RecordedOperation] = {}
        self._pressing_bytes = 0
        self._is_congested = False
        self._is_high = False
        self._aside = ContentStream(self._session_id, NO_OPERATION, Direction.TO_AGENT)
        self._close_reason: str | None = None
        self._on_closed: Callable[[int], None] | None = None

    @property
    def operations(self) -> int:
        """How many operations were begun."""
        return self._operations

    @property
    def unfinished(self) -> list[RecordedOperation]:
        """Operations that have no outcome yet, in order."""
        return [operation for operation in self._unfinished.values() if not operation.is_finished]

    def opened(self, grant: SessionGrant, *, client_address: str, client_name: str, tls: TlsFacts) -> None:
        """Note that the session is there. Written with the next flush."""
        self._records.append(
            SessionOpened(
                session_id=grant.session_id,
                at=self._clock(),
                protocol=grant.target.protocol,
                principal=grant.principal,
                target_id=grant.target.id,
                target=grant.target.name,
                client_address=client_address,
                client_name=client_name,
                tls=tls,
                policy_version=grant.policy.version,
            )
        )

    def begin(
        self,
        kind: str,
        text: bytes,
        *,
        decision: Decision,
        parameters: Sequence[tuple[bytes | None, bool]] = (),
        understood: Operation | None = None,
    ) -> RecordedOperation:
        """Note an intent. `parameters`: each value, or None for NULL, and whether it is binary.

        `understood`: what the text means, left out where that says nothing beyond the text.
        """
        self._operations += 1
        operation = RecordedOperation(self._session_id, self._operations, time.monotonic_ns())
        self._unfinished[operation.number] = operation
        recorded_text = text
        if len(text) > MAX_RECORDED_TEXT_BYTES:
            recorded_text = text[:MAX_RECORDED_TEXT_BYTES]
            self.sent(operation, text)
            self._cut.append(operation)
        operation.intent = OperationIntent(
            session_id=self._session_id,
            op=operation.number,
            at=self._clock(),
            kind=kind,
            text=recorded_text.decode("utf-8", "backslashreplace"),
            text_bytes=len(text),
            text_sha256=hashlib.sha256(text).digest(),
            parameters=self._parameters(operation, parameters) if parameters else (),
            decision=decision,
            operation=understood,
        )
        self._records.append(operation.intent)
        return operation

    def approval(self, operation: RecordedOperation, *, approval_id: str, state: ApprovalState, reason: str) -> None:
        """Note what became of the approval that the operation needed. Written with the next flush."""
        self._records.append(
            OperationApproval(
                session_id=self._session_id,
                op=operation.number,
                at=self._clock(),
                approval_id=approval_id,
                state=state,
                reason=reason,
            )
        )

    def _parameters(
        self, operation: RecordedOperation, parameters: Sequence[tuple[bytes | None, bool]]
    ) -> tuple[Parameter, ...]:
        left_bytes = MAX_RECORDED_PARAMETERS_BYTES
        recorded: list[Parameter] = []
        for value, is_binary in parameters:
            if value is None:
                recorded.append(Parameter(value=None, binary=is_binary))
                continue
            kept = value[: min(MAX_RECORDED_PARAMETER_BYTES, left_bytes)]
            left_bytes -= len(kept)
            if len(kept) < len(value):
                self.sent(operation, value)
                if operation not in self._cut[-1:]:
                    self._cut.append(operation)
            recorded.append(
                Parameter(
                    value=kept.hex() if is_binary else kept.decode("utf-8", "backslashreplace"),
                    binary=is_binary,
                    truncated_bytes=len(value) - len(kept),
                )
            )
        return tuple(recorded)

    def take_cut(self) -> list[RecordedOperation]:
        """Operations begun since the last call whose intent holds only a part of what the agent sent.

        The rest is content, which has to be secured too before the target may hear of them: see `secure_sent`.
        """
        cut, self._cut = self._cut, []
        return cut

    def shown(self, operation: RecordedOperation, data: bytes) -> None:
        """These bytes are the next that the agent will be shown for the operation."""
        self._feed(operation, operation.shown, data)

    def sent(self, operation: RecordedOperation, data: bytes) -> None:
        """These bytes are the next that the agent sent for the operation, beside its recorded text."""
        stream = operation.sent
        if stream is None:
            stream = operation.sent = ContentStream(self._session_id, operation.number, Direction.FROM_AGENT)
        self._feed(operation, stream, data)

    def aside(self, data: bytes) -> None:
        """The agent is shown these bytes outside of any operation, such as a notification; flush writes them."""
        for start in range(0, len(data), CHUNK_BYTES):
            self._aside.add(data[start : start + CHUNK_BYTES])
            self._keep(self._aside)

    def _feed(self, operation: RecordedOperation, stream: ContentStream, data: bytes) -> None:
        # A long statement or parameter comes at once: a piece of the journal has a bound.
        for start in range(0, len(data), CHUNK_BYTES):
            stream.add(data if len(data) <= CHUNK_BYTES else data[start : start + CHUNK_BYTES])
            if stream.waiting_bytes >= CHUNK_BYTES:
                self._press(operation, stream)

    def secure_sent(self, operation: RecordedOperation, on_secured: Callable[[int], None]) -> None:
        """Put all that the agent sent for the operation into the journal; call back with the position, 0 for nothing.

        Raises `RecordNotKept`.
        """
        stream = operation.sent
        if stream is None:
            on_secured(0)
        elif operation.pressing == 0 and stream.is_inline():
            self._keep(stream)
            on_secured(self.flush())
        else:
            operation.on_secured.append(on_secured)
            self._press(operation, stream)

    def finish(self, operation: RecordedOperation) -> bool:
        """It is over. True: `flush` writes its outcome. False: `operation.on_recorded` hears of its position later."""
        operation.is_finished = True
        shown, sent = operation.shown, operation.sent
        if operation.pressing == 0 and shown.is_inline() and (sent is None or sent.is_inline()):
            self._keep(shown)
            if sent is not None:
                self._keep(sent)
            self._records.append(self._outcome(operation))
            return True
        self._press(operation, shown)
        if sent is not None:
            self._press(operation, sent)
        return False

    def _keep(self, stream: ContentStream) -> None:
        """Little content: it goes into the journal as it is, with the next flush."""
        piece = stream.press(stream.take())
        if piece is not None:
            self._content.append(piece)

    def flush(self) -> int:
        """Write what has gathered, in one write. Returns the position that has to be durable, 0 for nothing.

        Raises `RecordNotKept`.
        """
        if not self._records and not self._content:
            return 0
        records, self._records = self._records, []
        content, self._content = self._content, []
        try:
            return self._journal.append(*records, content=content)
        except JournalError as error:
            raise RecordNotKept(str(error)) from error

    def close(self, reason: str, on_closed: Callable[[int], None]) -> None:
        """Note the end of the session once every operation has its outcome; then call back with the position.

        Operations that are not finished become UNKNOWN. Raises `RecordNotKept`.
        """
        self._close_reason = reason
        self._on_closed = on_closed
        for operation in self.unfinished:
            if operation.status is OutcomeStatus.OK:
                operation.status = OutcomeStatus.UNKNOWN
            self.finish(operation)
        self.flush()
        self._close_if_settled()

    def _close_if_settled(self) -> None:
        if self._close_reason is None or self._unfinished or self._on_closed is None:
            return
        callback, self._on_closed = self._on_closed, None
        self._records.append(
            SessionClosed(
                session_id=self._session_id,
                at=self._clock(),
                reason=self._close_reason,
                operations=self._operations,
            )
        )
        callback(self.flush())

    def _outcome(self, operation: RecordedOperation) -> OperationOutcome:
        del self._unfinished[operation.number]
        sent = operation.sent
        return OperationOutcome(
            session_id=self._session_id,
            op=operation.number,
            at=self._clock(),
            status=operation.status,
            duration_us=(time.monotonic_ns() - operation.started_ns) // 1000,
            rows=operation.rows,
            bytes_in=0 if sent is None else sent.total_bytes,
            bytes_out=operation.shown.total_bytes,
            content_sha256=operation.shown.digest(),
            error_code=operation.error_code,
            error_message=operation.error_message,
            tags=tuple(operation.tags[:MAX_RECORDED_TAGS]),
            columns=operation.columns,
            content_in_sha256=b"" if sent is None else sent.digest(),
        )

    def _press(self, operation: RecordedOperation, stream: ContentStream) -> None:
        raw_bytes = stream.waiting_bytes
        operation.pressing += 1
        self._pressing_bytes += raw_bytes
        self._update_level()
        future = self._loop.run_in_executor(self._lane, stream.press, stream.take())
        future.add_done_callback(partial(self._pressed, operation, raw_bytes))

    def _pressed(
        self, operation: RecordedOperation, raw_bytes: int, future: asyncio.Future[ContentPiece | None]
    ) -> None:
        operation.pressing -= 1
        self._pressing_bytes -= raw_bytes
        try:
            piece = future.result()
            records: tuple[Record, ...] = ()
            if operation.is_finished and operation.pressing == 0:
                records = (self._outcome(operation),)
            position = self._journal.append(*records, content=() if piece is None else (piece,))
            if operation.pressing == 0 and operation.on_secured:
                callbacks, operation.on_secured = operation.on_secured, []
                for on_secured in callbacks:
                    on_secured(position)
            if records and operation.on_recorded is not None:
                operation.on_recorded(position)
            self._close_if_settled()
        except (JournalError, RecordNotKept) as error:
            self._on_failure(RecordNotKept(str(error)))
            return
        if self._journal.is_congested and not self._is_congested:
            self._is_congested = True
            self._journal.when_relieved(self._relieved)
        self._update_level()

    def _relieved(self) -> None:
        self._is_congested = False
        self._update_level()

    def _update_level(self) -> None:
        if not self._is_high and (self._pressing_bytes > PRESS_HIGH_BYTES or self._is_congested):
            self._is_high = True
            self._on_level(True)
        elif self._is_high and self._pressing_bytes < PRESS_LOW_BYTES and not self._is_congested:
            self._is_high = False
            self._on_level(False)
