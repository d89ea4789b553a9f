"""The agent's messages: which operation each belongs to, what it means for names, and whether it may go on.

Pure but for the journal behind the recorder: no transport is touched here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from policies.engine import Effect
from proxyworker.contract import OutcomeStatus
from proxyworker.postgres.errors import INSUFFICIENT_PRIVILEGE, PROGRAM_LIMIT_EXCEEDED
from proxyworker.postgres.names import UNNAMED, Names, Statement
from proxyworker.postgres.pipeline import Expected, Pipeline, Step
from proxyworker.postgres.statements import NameChange, is_read, name_changes
from proxyworker.wire.postgres import backend, frontend
from proxyworker.wire.postgres.errors import MalformedMessage

if TYPE_CHECKING:
    from policies.engine import Decision
    from proxyworker.gate.decide import Decider
    from proxyworker.gate.record import RecordedOperation, SessionRecorder

#: Sent behind a message whose answer decides how the next one is understood: the target answers at once.
FLUSH_MESSAGE: Final = b"H\x00\x00\x00\x04"


@dataclass(slots=True)
class _LooseParse:
    """A Parse, and Describes of it, that no Bind has claimed yet: alone they are a preparation."""

    name: bytes
    statement: Statement
    decision: Decision
    steps: list[Expected] = field(default_factory=list)


class Requests:
    """One session's requests, in order.

    `has_write`: something was asked for that must not reach the target before its intent is durable; the owner resets.
    `is_at_barrier`: what comes next can't be understood before the last step is answered; then `on_barrier_over`.
    """

    def __init__(
        self, *, recorder: SessionRecorder, decider: Decider, pipeline: Pipeline, on_barrier_over: Callable[[], None]
    ) -> None:
        self._recorder = recorder
        self._decider = decider
        self._pipeline = pipeline
        self._on_barrier_over = on_barrier_over
        self._names = Names()
        self._loose: list[_LooseParse] = []
        self._bound: dict[bytes, RecordedOperation] = {}
        self._is_refusing = False
        self.has_write = False
        self.is_at_barrier = False
        self.is_over = False
        self._handlers: dict[int, Callable[[bytes, int, int], bool]] = {
            frontend.QUERY: self._query,
            frontend.PARSE: self._parse,
            frontend.BIND: self._bind,
            frontend.DESCRIBE: self._describe,
            frontend.EXECUTE: self._execute,
            frontend.CLOSE: self._close,
            frontend.SYNC: self._sync,
            frontend.FLUSH: self._flush,
            frontend.FUNCTION_CALL: self._function_call,
            frontend.TERMINATE: self._terminate,
        }

    def take(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Take a whole message. True: forward it. False: drop it.

        Raises `MalformedMessage` for a message or a type that is none, and `TooManyNames`.
        """
        handler = self._handlers.get(kind)
        if handler is None:
            raise MalformedMessage(f"a message of unknown type {kind}")
        if self._is_refusing and kind not in (frontend.SYNC, frontend.TERMINATE):
            # What the target does after an error in a pipeline, we do after a refusal ("Message Flow: Extended Query").
            return False
        return handler(data, start, end)

    def settle_batch(self) -> None:
        """The bytes so far are about to be forwarded: what no Bind has claimed is a preparation of its own."""
        for loose in self._loose:
            self._claim(loose, self._recorder.begin("prepare", loose.statement.text, decision=loose.decision))
        self._loose.clear()

    def refuse_oversized(self, kind: int, limit_bytes: int) -> None:
        """Refuse a message that is too long to be read."""
        decision = self._decider.decide()
        operation = self._recorder.begin("oversized", b"", decision=decision)
        self._refuse(
            operation,
            is_simple=kind == frontend.QUERY,
            code=PROGRAM_LIMIT_EXCEEDED,
            message=f"the statement is longer than {limit_bytes} bytes",
            hint="Send bulk data by COPY, or in smaller statements.",
        )

    def transaction_ended(self) -> None:
        """The target is idle outside a transaction, and nothing is under way."""
        self._names.transaction_ended()
        self._bound.clear()

    # ------------------------------------------------------------ the messages

    def _query(self, data: bytes, start: int, end: int) -> bool:
        text = frontend.parse_query(data, start, end)
        operation = self._admit("query", text, is_simple=True)
        if operation is None:
            return False
        # A simple query drops the unnamed statement ("Message Flow: Extended Query").
        self._names.drop_statement(UNNAMED)
        self.has_write = self.has_write or not is_read(text)
        self._push_with_changes(Step.QUERY, operation, text)
        return True

    def _parse(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_parse(data, start, end)
        decision = self._decider.decide()
        if decision.effect is not Effect.ALLOW:
            self._deny(self._recorder.begin("prepare", message.text, decision=decision), decision, is_simple=False)
            return False
        statement = Statement(message.text, is_read(message.text))
        self.has_write = self.has_write or not statement.is_read
        if self._names.has_statement(message.statement):
            expected = Expected(Step.PARSE, on_done=self._barrier(lambda: self._set_statement(message, statement)))
        else:
            self._set_statement(message, statement)
            expected = Expected(
                Step.PARSE, on_done=self._unless(lambda: self._names.drop_statement(message.statement, statement))
            )
        self._pipeline.push(expected)
        self._loose.append(_LooseParse(message.statement, statement, decision, [expected]))
        return True

    def _set_statement(self, message: frontend.Parse, statement: Statement) -> None:
        self._names.set_statement(message.statement, statement)

    def _bind(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_bind(data, start, end)
        loose = self._loose_parse(message.statement)
        # A Parse that is skipped has left no name, but its text is what the agent wants executed.
        statement = self._names.statement(message.statement) if loose is None else loose.statement
        operation = self._admit("execute", statement.text, is_simple=False, parameters=message.values)
        if operation is None:
            return False
        if loose is not None:
            self._loose.remove(loose)
            self._claim(loose, operation)
        self.has_write = self.has_write or not statement.is_read
        self._bound[message.portal] = operation
        if self._names.has_portal(message.portal):
            on_done = self._barrier(lambda: self._names.set_portal(message.portal, statement))
        else:
            self._names.set_portal(message.portal, statement)
            # If it fails, SQL may give the name to a cursor: better not to know its text than to know a wrong one.
            on_done = self._unless(lambda: self._names.drop_portal(message.portal, statement))
        self._pipeline.push(Expected(Step.BIND, operation, on_done=on_done))
        return True

    def _describe(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_named(data, start, end)
        if message.kind == frontend.STATEMENT:
            loose = self._loose_parse(message.name)
            if loose is not None:
                expected = Expected(Step.DESCRIBE)
                self._pipeline.push(expected)
                loose.steps.append(expected)
                return True
            text = self._names.statement(message.name).text
        else:
            operation = self._bound_operation(message.name)
            if operation is not None:
                self._pipeline.push(Expected(Step.DESCRIBE, operation))
                return True
            text = self._names.portal(message.name).text
        operation = self._admit("describe", text, is_simple=False)
        if operation is None:
            return False
        self._pipeline.push(Expected(Step.DESCRIBE, operation))
        return True

    def _execute(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_execute(data, start, end)
        statement = self._names.portal(message.portal)
        operation = self._bound_operation(message.portal)
        if operation is None:
            operation = self._admit("execute", statement.text, is_simple=False)
        if operation is None:
            return False
        self.has_write = self.has_write or not statement.is_read
        self._push_with_changes(Step.EXECUTE, operation, statement.text)
        return True

    def _close(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_named(data, start, end)
        if message.kind == frontend.STATEMENT:
            self._names.drop_statement(message.name)
        else:
            self._names.drop_portal(message.name)
        self._pipeline.push(Expected(Step.CLOSE))
        return True

    def _sync(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        self._is_refusing = False
        self._pipeline.push(Expected(Step.SYNC))
        return True

    def _flush(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        return True

    def _function_call(self, data: bytes, start: int, end: int) -> bool:
        oid = frontend.parse_function_call(data, start, end)
        operation = self._admit("function", b"function %d" % oid, is_simple=True)
        if operation is None:
            return False
        self._recorder.sent(operation, data[start:end])
        self.has_write = True
        self._pipeline.push(Expected(Step.FUNCTION, operation))
        return True

    def _terminate(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        self.is_over = True
        return False

    # ------------------------------------------------------------ operations

    def _admit(
        self,
        kind: str,
        text: bytes,
        *,
        is_simple: bool,
        parameters: tuple[tuple[bytes | None, bool], ...] = (),
    ) -> RecordedOperation | None:
        decision = self._decider.decide()
        operation = self._recorder.begin(kind, text, decision=decision, parameters=parameters)
        if decision.effect is Effect.ALLOW:
            return operation
        self._deny(operation, decision, is_simple=is_simple)
        return None

    def _deny(self, operation: RecordedOperation, decision: Decision, *, is_simple: bool) -> None:
        self._refuse(
            operation, is_simple=is_simple, code=INSUFFICIENT_PRIVILEGE, message=decision.reason, hint=decision.help
        )

    def _refuse(self, operation: RecordedOperation, *, is_simple: bool, code: str, message: str, hint: str) -> None:
        operation.fail(code, message)
        operation.status = OutcomeStatus.DENIED
        error = backend.build_error(severity="ERROR", code=code, message=f"Narrowgate: {message}", hint=hint)
        self._pipeline.push(Expected(Step.REFUSAL, operation, refusal=error, with_ready=is_simple))
        self._is_refusing = not is_simple

    def _push_with_changes(self, step: Step, operation: RecordedOperation, text: bytes) -> None:
        changes = name_changes(text)
        if not changes:
            self._pipeline.push(Expected(step, operation))
            return
        # No transaction holds names back: of a text that failed, any part may have happened.
        dropped = tuple(NameChange(change.name, None) for change in changes)
        on_done = self._barrier(lambda: self._names.apply(changes), lambda: self._names.apply(dropped))
        self._pipeline.push(Expected(step, operation, on_done=on_done))

    def _barrier(
        self, on_success: Callable[[], None], on_failure: Callable[[], None] = lambda: None
    ) -> Callable[[bool], None]:
        self.is_at_barrier = True

        def over(succeeded: bool) -> None:
            self.is_at_barrier = False
            if succeeded:
                on_success()
            else:
                on_failure()
            self._on_barrier_over()

        return over

    @staticmethod
    def _unless(on_failure: Callable[[], None]) -> Callable[[bool], None]:
        return lambda succeeded: None if succeeded else on_failure()

    def _bound_operation(self, portal: bytes) -> RecordedOperation | None:
        operation = self._bound.get(portal)
        return operation if operation is not None and operation.outstanding > 0 else None

    def _loose_parse(self, name: bytes) -> _LooseParse | None:
        return next((loose for loose in reversed(self._loose) if loose.name == name), None)

    def _claim(self, loose: _LooseParse, operation: RecordedOperation) -> None:
        for expected in loose.steps:
            self._pipeline.attach(expected, operation)
