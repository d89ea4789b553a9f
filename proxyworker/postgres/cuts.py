"""Cuts statements short that have come to a limit: by rows, bytes and values shown, or by how long they run.

The target is asked to cancel the statement; rows that still come are dropped, and its error is replaced by ours. A
statement that ends otherwise, because it was through before the cancel request, can't be told from the one behind it
that the request may still hit: then the session ends. Rows with counted values are cut before they are shown, and the
target is given a moment first: an answer that ends by itself then ends with our error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from proxyworker.gate.verdicts import Exhausted, Waiting
from proxyworker.postgres.errors import LIMIT_EXCEEDED, QUERY_CANCELED
from proxyworker.postgres.pipeline import ASYNCHRONOUS, Pipeline
from proxyworker.wire.postgres import backend

if TYPE_CHECKING:
    from proxyworker.gate.record import RecordedOperation

#: What shows the agent rows.
_ROWS: Final = frozenset({backend.DATA_ROW, backend.COPY_DATA})
#: What may still come of a statement that is being cancelled, and is dropped.
_DROPPED: Final = _ROWS | {backend.COPY_DONE}
#: It was through already.
_THROUGH: Final = frozenset(
    {backend.COMMAND_COMPLETE, backend.PORTAL_SUSPENDED, backend.EMPTY_QUERY, backend.FUNCTION_RESULT}
)
#: What the agent is shown whatever becomes of the statement.
_ALWAYS: Final = frozenset({backend.READY_FOR_QUERY}) | ASYNCHRONOUS
#: So long an answer whose values are too many may still end by itself, before the target is asked to cancel it.
GRACE_SECONDS: Final = 0.5
#: No answer of the target is longer that isn't passed on in pieces; a row that is looked at isn't.
MAX_LOOKED_ROW_BYTES: Final = 16 * 1024 * 1024
#: A target that doesn't heed a cancel request in this time: the session ends.
CUT_SECONDS: Final = 10.0
#: A statement's time counts from when it is the first in its pipeline, looked at this often.
_LOOK_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Cut:
    """A statement on its way out. `error` replaces the target's.

    `unfinished_bytes`: of a row that the agent has begun to be shown.
    """

    code: str
    message: str
    error: bytes
    deadline: asyncio.TimerHandle
    unfinished_bytes: int
    is_said: bool = False
    #: The target wasn't asked to cancel it yet.
    grace: asyncio.TimerHandle | None = None
    is_through: bool = False


class Edited:
    """The target's bytes, with what we say between them and in place of some."""

    __slots__ = ("_copied", "_data", "_parts")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: list[bytes] = []
        self._copied = 0

    def put(self, start: int, end: int, said: bytes) -> None:
        """Say this in place of the bytes from `start` to `end`, which come in order."""
        self._parts += (self._data[self._copied : start], said)
        self._copied = end

    def until(self, end: int) -> bytes:
        """All up to there."""
        return b"".join((*self._parts, self._data[self._copied : end]))


class Cuts:
    """The operations of one session that are under limits.

    `unfinished` says how much of the target's last row is still to come. `cancel` has the target cancel what runs.
    `on_known` hears of an operation whose budget is known again. `fail` ends the session, with an SQLSTATE and a
    message.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        unfinished: Callable[[], int],
        cancel: Callable[[], None],
        on_known: Callable[[RecordedOperation], None],
        fail: Callable[[str, str], None],
    ) -> None:
        self._pipeline = pipeline
        self._unfinished = unfinished
        self._cancel = cancel
        self._on_known = on_known
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, RecordedOperation] = {}
        self._cuts: dict[int, _Cut] = {}
        #: See `looked_at`.
        self.reached = 0
        self.waits_for_values = False
        #: Open operations whose rows are looked at.
        self._watched = 0
        self._is_unseen = False
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def begin(self, operation: RecordedOperation) -> None:
        """The operation has a charge, and goes to the target."""
        self._open[operation.number] = operation
        self._watched += operation.charge is not None and operation.charge.watch is not None
        if operation.charge is not None and operation.charge.statement_seconds:
            self._timers[operation.number] = self._loop.call_later(_LOOK_SECONDS, self._look, operation, None)

    def settle(self, operations: Iterable[RecordedOperation]) -> bool:
        """Charge what these were shown, and cut those that have come to a limit. True: read no more for now."""
        waits = False
        for operation in operations:
            charge = operation.charge
            if charge is None or operation.number not in self._open or operation.number in self._cuts:
                continue
            found = charge.settle()
            if isinstance(found, Exhausted):
                self._cut(operation, LIMIT_EXCEEDED, f"the statement was cut off: {found.message}", found.hint)
            elif isinstance(found, Waiting):
                waits = True
                found.then(lambda operation=operation: self._on_known(operation))  # type: ignore[misc]
        return waits

    def looked_at(
        self, spans: Iterable[tuple[int, int, int, int]], data: bytes, consumed: int
    ) -> Iterable[tuple[int, int, int, int]]:
        """The spans, rows whose values count up to where they may be shown now.

        They may end early, at `reached`; the rest is to come again: with more of it, or, if the session
        `waits_for_values`, once `on_known` has heard.
        """
        self.reached, self.waits_for_values = consumed, False
        return self._looked_at(spans, data) if self._watched and not self._is_unseen else spans

    def nobody_sees(self) -> None:
        """The agent has gone: what still comes shows nobody anything."""
        self._is_unseen = True

    def _looked_at(
        self, spans: Iterable[tuple[int, int, int, int]], data: bytes
    ) -> Iterator[tuple[int, int, int, int]]:
        for kind, start, end, count in spans:
            operation = self._pipeline.current
            charge = None if operation is None else operation.charge
            watch = None if charge is None else charge.watch
            if operation is None or watch is None or operation.number in self._cuts:
                yield kind, start, end, count
                continue
            if kind not in _ROWS or not watch.looks:
                watch.heed(kind, data, start, end, is_final=not self._pipeline.describes_statement)
                yield kind, start, end, count
                continue
            seen = watch.look(data, start, end)
            if seen.count:
                yield kind, start, seen.end, seen.count
            problem = seen.problem
            if problem is None and end - seen.end > MAX_LOOKED_ROW_BYTES:
                problem = Exhausted("a row is too long for its values to be counted", "Select shorter values.")
            if isinstance(problem, Exhausted):
                message = f"the statement was cut off: {problem.message}"
                self._cut(operation, LIMIT_EXCEEDED, message, problem.hint, is_gentle=True)
                if seen.end < end:
                    yield kind, seen.end, end, count - seen.count
            elif seen.end < end:
                self.reached, self.waits_for_values = seen.end, problem is not None
                if problem is not None:
                    problem.then(partial(self._on_known, operation))
                return

    def instead_of(
        self, operation: RecordedOperation, kind: int, data: bytes, start: int, end: int, *, count: int
    ) -> bytes | None:
        """What the agent is shown in place of this message of the target, or these rows; None: they themselves."""
        cut = self._cuts.get(operation.number)
        if cut is None:
            if kind in _ROWS and operation.charge is not None:
                operation.charge.rows += count
            return None
        return self._instead_of_cut(cut, kind, data, start, end)

    def _instead_of_cut(self, cut: _Cut, kind: int, data: bytes, start: int, end: int) -> bytes | None:
        if cut.is_said:
            return b"" if cut.is_through and kind not in _ALWAYS else None
        if kind in _DROPPED:
            passing = min(cut.unfinished_bytes, end - start)
            cut.unfinished_bytes -= passing
            return data[start : start + passing]
        if kind in _THROUGH:
            if cut.grace is None or not self._pipeline.ends_here:
                self._fail(cut.code, cut.message)
                return b""
            cut.is_through = True
        elif kind != backend.ERROR_RESPONSE or backend.parse_error(data, start, end).severity != "ERROR":
            return None
        cut.is_said = True
        self._no_timers(cut)
        return cut.error

    def over(self, operation: RecordedOperation) -> None:
        """The operation has ended: it takes no more."""
        if self._open.pop(operation.number, None) is None:
            return
        timer, cut = self._timers.pop(operation.number, None), self._cuts.pop(operation.number, None)
        if timer is not None:
            timer.cancel()
        if cut is not None:
            self._no_timers(cut)
        if operation.charge is not None:
            self._watched -= operation.charge.watch is not None
            operation.charge.close()

    def close(self) -> None:
        """The session is over."""
        for operation in list(self._open.values()):
            self.over(operation)

    def _look(self, operation: RecordedOperation, began: float | None) -> None:
        charge = operation.charge
        if charge is None or operation.number in self._cuts:
            return
        now = self._loop.time()
        if began is None and self._pipeline.current is operation:
            began = now - _LOOK_SECONDS
        left = _LOOK_SECONDS if began is None else began + charge.statement_seconds - now
        if left > 0:
            later = self._loop.call_later(left, self._look, operation, began)
            self._timers[operation.number] = later
            return
        self._cut(
            operation,
            QUERY_CANCELED,
            f"the statement was cancelled: rule {charge.seconds_rule!r} lets one run for {charge.statement_seconds} s",
            "Ask for less at a time, or for an index.",
        )

    def _cut(
        self, operation: RecordedOperation, code: str, message: str, hint: str, *, is_gentle: bool = False
    ) -> None:
        """`is_gentle`: at the end of a row, and before the target is asked to cancel, its answer may end by itself."""
        error = backend.build_error(severity="ERROR", code=code, message=f"Narrowgate: {message}", hint=hint)
        operation.fail(code, message)
        deadline = self._loop.call_later(CUT_SECONDS, self._fail, code, message)
        cut = _Cut(code, message, error, deadline, 0 if is_gentle else self._unfinished())
        self._cuts[operation.number] = cut
        if is_gentle:
            cut.grace = self._loop.call_later(GRACE_SECONDS, self._cancel_now, cut)
        else:
            self._cancel()

    def _cancel_now(self, cut: _Cut) -> None:
        cut.grace = None
        self._cancel()

    @staticmethod
    def _no_timers(cut: _Cut) -> None:
        cut.deadline.cancel()
        if cut.grace is not None:
            cut.grace.cancel()
