"""The agent's messages: which operation each belongs to, what it means for names, and whether it may go on.

Pure but for the journal behind the recorder: no transport is touched here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from policies.engine import Effect, Kind, Operation
from policies.engine.operation import NOTHING
from proxyworker.contract import OutcomeStatus
from proxyworker.gate.verdicts import Exhausted, Waiting
from proxyworker.postgres.errors import INSUFFICIENT_PRIVILEGE, LIMIT_EXCEEDED, PROGRAM_LIMIT_EXCEEDED
from proxyworker.postgres.held import HeldOperation, SessionState, combined, executed_by, refusal_of
from proxyworker.postgres.names import UNNAMED, Names, Statement
from proxyworker.postgres.pipeline import NOT_EXECUTED, Expected, Pipeline, Step
from proxyworker.postgres.understand import Facts, NameChange, understand, unread
from proxyworker.postgres.understand.fastpath import called
from proxyworker.postgres.unreadable import explained, is_unread
from proxyworker.wire.postgres import backend, frontend
from proxyworker.wire.postgres.errors import MalformedMessage

if TYPE_CHECKING:
    from policies.engine import Decision, Obligation
    from proxyworker.gate.decide import Decider
    from proxyworker.gate.meter import Charge
    from proxyworker.gate.record import RecordedOperation, SessionRecorder
    from proxyworker.postgres.values import CountedValues

#: Sent behind a message whose answer decides how the next one is understood: the target answers at once.
FLUSH_MESSAGE: Final = b"H\x00\x00\x00\x04"

#: Kinds that say nothing beyond the text, where they touch nothing: not worth their place in every record.
_TELLING_NOTHING: Final = frozenset({Kind.TRANSACTION, Kind.SET, Kind.SHOW, Kind.CURSOR, Kind.SELECT, Kind.PREPARED})

_STALE_CURSOR: Final = "the policy has changed since a cursor was opened, and what it shows was decided on before"
_STALE_HELP: Final = "End the transaction and open the cursor again; if it is WITH HOLD, in a new session."

Values = tuple[tuple[bytes | None, bool], ...]


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
    `held`: the message taken last needs an approval. It was dropped; once the approval is decided (`HeldOperation`),
    the owner has it taken again, as the next one.
    `waits_for_budget`: it isn't known what is left of a limit. The message taken last was dropped; `on_barrier_over`
    says when the owner may have it taken again. `on_charged` hears of operations that are under limits.
    """

    def __init__(
        self,
        *,
        recorder: SessionRecorder,
        decider: Decider,
        meter: CountedValues,
        pipeline: Pipeline,
        on_barrier_over: Callable[[], None],
        on_charged: Callable[[RecordedOperation], None],
    ) -> None:
        self._recorder = recorder
        self._decider = decider
        self._meter = meter
        self._pipeline = pipeline
        self._on_barrier_over = on_barrier_over
        self._on_charged = on_charged
        self._names = Names()
        self._state = SessionState()
        self._granted_portals: dict[bytes, str] = {}
        self.held: HeldOperation | None = None
        #: Versions of the policy under which cursors and portals were opened: those of the transaction, and those held.
        self._opened_under: set[str] = set()
        self._held_under: set[str] = set()
        #: What limits those that SQL has declared, and whether they are held.
        self._cursors_owe: dict[Obligation, bool] = {}
        self._loose: list[_LooseParse] = []
        self._bound: dict[bytes, RecordedOperation] = {}
        self._is_refusing = False
        self.has_write = False
        self.is_at_barrier = False
        self.waits_for_budget = False
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
        held = self.held
        if held is not None and held.is_skipped:
            # The target ignores everything up to the next Sync, and would have ignored this.
            held.operation.fail("", NOT_EXECUTED)
            self._pipeline.finished.append(held.operation)
            self._is_refusing, self.held = True, None
        if handler is None:
            raise MalformedMessage(f"a message of unknown type {kind}")
        if self._is_refusing and kind not in (frontend.SYNC, frontend.TERMINATE):
            # What the target does after an error in a pipeline, we do after a refusal ("Message Flow: Extended Query").
            return False
        return handler(data, start, end)

    def settle_batch(self) -> None:
        """The bytes so far are about to be forwarded: what no Bind has claimed is a preparation of its own."""
        for loose in self._loose:
            operation = self._recorder.begin(
                "prepare",
                loose.statement.text,
                decision=loose.decision,
                understood=_worth_recording(loose.statement.facts.operation),
            )
            self._claim(loose, operation)
        self._loose.clear()

    def refuse_oversized(self, kind: int, limit_bytes: int) -> None:
        """Refuse a message that is too long to be read."""
        operation = self._recorder.begin("oversized", b"", decision=self._decider.session())
        self._refuse(
            operation,
            is_simple=kind == frontend.QUERY,
            code=PROGRAM_LIMIT_EXCEEDED,
            message=f"the statement is longer than {limit_bytes} bytes",
            hint="Send bulk data by COPY, or in smaller statements.",
        )

    def at_rest(self) -> None:
        """The target is ready for queries, and nothing is under way."""
        is_idle = self._pipeline.transaction_status == backend.IDLE
        self._state.settled(is_within=not is_idle)
        if is_idle:
            self.transaction_ended()

    def transaction_ended(self) -> None:
        """The target is idle outside a transaction, and nothing is under way."""
        self._names.transaction_ended()
        self._opened_under.clear()
        self._cursors_owe = {one: is_held for one, is_held in self._cursors_owe.items() if is_held}
        self._bound.clear()
        self._granted_portals.clear()

    def began_with(self, settings: str) -> None:
        """See `SessionState`."""
        self._state.began_with(settings)

    def heed_error(self) -> None:
        """The target says that something has failed."""
        self._state.failed()

    def bind_held(self) -> None:
        """Everything before what is held has been answered: it is known what it would be executed in."""
        if self.held is not None:
            self.held.bind(self._state, self._names)

    def heed_setting(self, name: str, value: str) -> None:
        """The target says that a setting has this value now (ParameterStatus)."""
        self._state.heed(name, value)

    # ------------------------------------------------------------ the messages

    def _query(self, data: bytes, start: int, end: int) -> bool:
        text = frontend.parse_query(data, start, end)
        statement = Statement(text, self._understand(text))
        operation = self._admit("query", statement, is_simple=True)
        if operation is None:
            return False
        # A simple query drops the unnamed statement ("Message Flow: Extended Query").
        self._names.drop_statement(UNNAMED)
        self._push_with_changes(Step.QUERY, operation, statement)
        return True

    def _parse(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_parse(data, start, end)
        statement = Statement(message.text, self._understand(message.text), message.types)
        facts, decision = self._decide(statement)
        if decision.effect is Effect.DENY:
            operation = self._recorder.begin(
                "prepare", message.text, decision=decision, understood=_worth_recording(facts.operation)
            )
            self._deny(operation, decision, is_simple=False)
            return False
        # What needs an approval is prepared without one: that executes nothing.
        self.has_write = self.has_write or not statement.facts.is_read
        if self._names.has_statement(message.statement):
            expected = Expected(Step.PARSE, on_done=self._barrier(lambda: self._set_statement(message, statement)))
        else:
            parsed = self._names.replace_statement(message.statement, statement, may_skip=self._pipeline.is_within)
            expected = Expected(Step.PARSE, on_done=parsed)
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
        operation = self._admit("execute", statement, is_simple=False, parameters=message.values)
        if operation is None:
            return False
        if loose is not None:
            self._loose.remove(loose)
            self._claim(loose, operation)
        self._bound[message.portal] = operation
        decision = operation.intent.decision
        if decision.effect is Effect.REQUIRE_APPROVAL:
            # Its rows may be fetched in several goes; the approval was for all of them.
            self._granted_portals[message.portal] = decision.policy_version
        else:
            self._granted_portals.pop(message.portal, None)
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
                expected = Expected(Step.DESCRIBE, on_described=self._meter.describing(loose.statement))
                self._pipeline.push(expected)
                loose.steps.append(expected)
                return True
            statement = self._names.statement(message.name)
        else:
            operation = self._bound_operation(message.name)
            if operation is not None:
                self._pipeline.push(Expected(Step.DESCRIBE, operation))
                return True
            statement = self._names.portal(message.name)
        facts, decision = self._decide(statement)
        operation = self._recorder.begin(
            "describe", statement.text, decision=decision, understood=_worth_recording(facts.operation)
        )
        if decision.effect is Effect.DENY:
            self._deny(operation, decision, is_simple=False)
            return False
        self._pipeline.push(Expected(Step.DESCRIBE, operation, on_described=self._meter.describing(statement)))
        return True

    def _execute(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_execute(data, start, end)
        statement = self._names.portal(message.portal)
        operation = self._bound_operation(message.portal)
        if operation is None:
            granted_under = self._granted_portals.get(message.portal, "")
            operation = self._admit("execute", statement, is_simple=False, granted_under=granted_under)
        if operation is None:
            return False
        self._push_with_changes(Step.EXECUTE, operation, statement)
        return True

    def _close(self, data: bytes, start: int, end: int) -> bool:
        message = frontend.parse_named(data, start, end)
        if message.kind == frontend.STATEMENT:
            closing = self._names.close_statement(message.name)
            self._pipeline.push(Expected(Step.CLOSE, on_done=lambda _: closing()))
        else:
            self._names.drop_portal(message.name)
            self._granted_portals.pop(message.name, None)
            self._pipeline.push(Expected(Step.CLOSE))
        return True

    def _sync(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        self._is_refusing = False
        if self._loose:
            self.settle_batch()  # what is bound behind the Sync may be something else, if a Parse before it was skipped
        self._names.segment += 1
        self._pipeline.push(Expected(Step.SYNC))
        return True

    def _flush(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        return True

    def _function_call(self, data: bytes, start: int, end: int) -> bool:
        oid = frontend.parse_function_call(data, start, end)
        values = ((data[start:end], True),)
        operation = self._admit(
            "function", Statement(b"function %d" % oid, called(oid)), is_simple=True, parameters=values
        )
        if operation is None:
            return False
        self._pipeline.push(Expected(Step.FUNCTION, operation))
        return True

    def _terminate(self, data: bytes, start: int, end: int) -> bool:  # noqa: ARG002
        self.is_over = True
        return False

    # ------------------------------------------------------------ operations

    def _understand(self, text: bytes) -> Facts:
        return understand(text) if self._state.reads_alike(text) else unread(text)

    def _decide(self, statement: Statement) -> tuple[Facts, Decision]:
        """What a statement does, with that of the prepared statements which it executes, and whether it may."""
        facts, text = statement.facts, statement.text
        if facts.executes:
            executed = executed_by(facts, self._names)
            facts = combined(facts, [one.facts for one in executed])
            # What a condition asks of the text, it asks of theirs as well.
            text = b"\n".join((text, *(one.text for one in executed)))
        return facts, self._decider.decide(facts.operation, text)

    def _admit(
        self, kind: str, statement: Statement, *, is_simple: bool, parameters: Values = (), granted_under: str = ""
    ) -> RecordedOperation | None:
        """Begin an operation that may pass. None: it was refused, is held now, or has to wait for what limits leave.

        `granted_under`: the version under which it was approved already, as a part of another operation.
        """
        facts, decision = self._decide(statement)
        if decision.effect is Effect.DENY and is_unread(facts.operation):
            decision = explained(decision, statement.text, is_readable=self._state.reads_alike(statement.text))
        if decision.effect is not Effect.DENY and self._is_of_an_earlier_policy(statement, facts, decision):
            decision = msgspec.structs.replace(
                decision, effect=Effect.DENY, reason=_STALE_CURSOR, help=_STALE_HELP, approval=None, obligations=()
            )
        decision = self._with_limits_of_cursors(facts, decision)
        held = self.held
        charge: Charge | Exhausted | None = None
        may_pass_now = _may_pass_now(decision, held, granted_under)
        is_limited = decision.effect is not Effect.DENY and decision.obligations and not _is_free(facts.operation)
        if is_limited and (may_pass_now or held is None):
            # What a limit refuses anyway isn't put before an approver.
            take = self._meter.admit if may_pass_now else self._meter.check
            found = take(decision.obligations, statement, facts)
            if isinstance(found, Waiting):
                self.waits_for_budget = True
                found.then(self._budget_known)
                return None
            charge = found
        self.held = None
        operation = (
            held.operation
            if held is not None
            else self._recorder.begin(
                kind,
                statement.text,
                decision=decision,
                parameters=parameters,
                understood=_worth_recording(facts.operation),
            )
        )
        if decision.effect is Effect.DENY:
            self._deny(operation, decision, is_simple=is_simple)
            return None
        if held is not None and held.verdict is not None:
            refused = refusal_of(held.verdict, asked=held.operation.intent.decision, now=decision)
            if refused is not None:
                self._refuse(
                    operation, is_simple=is_simple, code=refused.code, message=refused.message, hint=refused.hint
                )
                return None
            self.has_write = True  # the record of the approval is on disk before the target hears of it
        elif not may_pass_now and not isinstance(charge, Exhausted):
            self.held = HeldOperation(
                operation=operation,
                statement=statement,
                understood=facts.operation,
                parameters=parameters,
            )
            return None
        if isinstance(charge, Exhausted):
            self._refuse(operation, is_simple=is_simple, code=LIMIT_EXCEEDED, message=charge.message, hint=charge.hint)
            return None
        if charge is not None:
            operation.charge = charge
            self._on_charged(operation)
        self._state.passed(Statement(statement.text, facts))
        self._meter.passed(facts)
        if kind == "execute" or _is_of_cursors(facts):
            self._note_cursor(statement, facts, decision)
        self.has_write = self.has_write or not facts.is_read
        return operation

    def _is_of_an_earlier_policy(self, statement: Statement, facts: Facts, decision: Decision) -> bool:
        """Whether it may show the rest of what was decided on by another version; which cursor it is isn't known."""
        if not _is_of_cursors(facts):
            return False
        is_close = facts.statements == 1 and statement.text.lstrip()[:5].lower() == b"close"
        return not is_close and not self._opened_under.union(self._held_under) <= {decision.policy_version}

    def _with_limits_of_cursors(self, facts: Facts, decision: Decision) -> Decision:
        """A FETCH shows what was limited when its cursor was declared, and which cursor that is isn't known."""
        if decision.effect is Effect.DENY or not self._cursors_owe or not _is_of_cursors(facts):
            return decision
        owed = tuple(dict.fromkeys((*decision.obligations, *self._cursors_owe)))
        return msgspec.structs.replace(decision, obligations=owed)

    def _note_cursor(self, statement: Statement, facts: Facts, decision: Decision) -> None:
        is_held = b"hold" in statement.text.lower()
        (self._held_under if is_held else self._opened_under).add(decision.policy_version)
        for one in decision.obligations if _is_of_cursors(facts) else ():
            self._cursors_owe[one] = is_held or self._cursors_owe.get(one, False)

    def _budget_known(self) -> None:
        self.waits_for_budget = False
        self._on_barrier_over()

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

    def _push_with_changes(self, step: Step, operation: RecordedOperation, statement: Statement) -> None:
        # Of a prepared PREPARE only its facts tell: `statement.text` may be the PREPARE that made this one.
        changes = statement.facts.changes
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


def _is_of_cursors(facts: Facts) -> bool:
    return any(access.kind == Kind.CURSOR for access in facts.operation.accesses)


def _is_free(operation: Operation) -> bool:
    """Nobody is kept from ending a transaction, nor pays for it."""
    return all(access.kind == Kind.TRANSACTION for access in operation.accesses)


def _may_pass_now(decision: Decision, held: HeldOperation | None, granted_under: str) -> bool:
    """Whether nothing but limits stands against the operation: only then are they charged."""
    if decision.effect is Effect.DENY:
        return False
    if held is not None and held.verdict is not None:
        return refusal_of(held.verdict, asked=held.operation.intent.decision, now=decision) is None
    return decision.effect is Effect.ALLOW or granted_under == decision.policy_version


def _worth_recording(operation: Operation) -> Operation | None:
    """The operation, unless it says nothing that the text doesn't."""
    if not operation.hazards and all(
        access.object == NOTHING and access.kind in _TELLING_NOTHING for access in operation.accesses
    ):
        return None
    return operation
