"""An operation that waits for an approval: what it is bound to, and what becomes of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from policies.engine import Decision, Effect, Kind, Operation
from proxyworker.contract import ApprovalState
from proxyworker.postgres.errors import INSUFFICIENT_PRIVILEGE, QUERY_CANCELED, SUCCESSFUL_COMPLETION
from proxyworker.postgres.names import Statement
from proxyworker.postgres.understand import Facts
from proxyworker.postgres.understand.accesses import READING_SETTINGS, is_read_alike
from proxyworker.wire.postgres import backend

if TYPE_CHECKING:
    from proxyworker.contract import ApprovalTicket, OperationIntent
    from proxyworker.gate.approve import Verdict
    from proxyworker.gate.record import RecordedOperation
    from proxyworker.postgres.names import Names

#: What is hashed begins with this: another form gets another number.
_DIGEST_CONTEXT: Final = b"narrowgate postgres operation v2\x00"
_NOT_MOVED: Final = b""
#: Settings that the target reports and that say nothing of what a text means. All others that it reports are bound.
_MEANINGLESS_SETTINGS: Final = frozenset({"application_name", "in_hot_standby", "scram_iterations", "server_version"})


@dataclass(slots=True, eq=False)
class HeldOperation:
    """It was recorded, and goes no further before it is decided on.

    `verdict` set: taken again, it passes or is refused. `is_skipped`: an earlier part of its pipeline has failed.
    Known once all before it is answered (`bind`): `digest`, what an approval is good for; `template`, what one for its
    template is good for, with the settings by which it is read; `has_moved`: the session has
    changed what names lead to, so that another session can't see what this one would; `executed`: the texts of the
    prepared statements that it executes.
    """

    operation: RecordedOperation
    statement: Statement
    understood: Operation
    parameters: tuple[tuple[bytes | None, bool], ...]
    digest: bytes = b""
    template: str = ""
    has_moved: bool = True
    executed: tuple[bytes, ...] = ()
    verdict: Verdict | None = None
    is_skipped: bool = False

    def bind(self, state: SessionState, names: Names) -> None:
        """All before it is answered: this is the session in which it would be executed."""
        self.digest = state.digest(self.statement, self.parameters, names)
        self.template = state.template(self.understood.template)
        self.has_moved = state.has_moved
        self.executed = tuple(one.text for one in executed_by(self.statement.facts, names))

    @property
    def intent(self) -> OperationIntent:
        """What approvers see of the text: with that of what it executes, for `EXECUTE p` alone says nothing."""
        intent = self.operation.intent
        if not self.executed:
            return intent
        executed = "".join(
            f"\n\n-- which executes:\n{text.decode('utf-8', 'backslashreplace')}" for text in self.executed
        )
        return msgspec.structs.replace(
            intent, text=intent.text + executed, text_bytes=intent.text_bytes + len(executed.encode())
        )

    @property
    def asked(self) -> Operation:
        """What approvers see. No template stands for it once names may lead elsewhere: grants for a template are for
        what its names led to when it was shown. Nor does one for what is read by other settings, such as a time zone.
        """
        template = "" if self.has_moved else self.template
        return msgspec.structs.replace(self.understood, template=template)

    @property
    def is_waiting(self) -> bool:
        """Whether it is not decided yet."""
        return self.verdict is None and not self.is_skipped


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the agent is told."""

    code: str
    message: str
    hint: str


_AGAIN: Final = "Send the statement again to ask anew."
_ANEW: Final = "Send the statement again: it is decided on anew."
#: By how the approval stands: the message, and what the agent can do.
_WORDS: Final = {
    ApprovalState.PENDING: (
        "this needs an approval; {approval} was asked for: {url}",
        "Once it is granted, send exactly the same statement with the same parameters again.",
    ),
    ApprovalState.WITHDRAWN: ("{approval} was withdrawn{because}", _AGAIN),
    ApprovalState.EXPIRED: ("{approval} was not decided in time{because}", _AGAIN),
    ApprovalState.REJECTED: (
        "{approval} was rejected{because}",
        "Don't send it again unchanged: do what the reason says, or something else.",
    ),
    ApprovalState.VOID: ("{approval} is void{because}", _ANEW),
    # Granted for what the policy said before.
    ApprovalState.GRANTED: ("the policy changed while this waited for {approval}", _ANEW),
}


def refusal_of(verdict: Verdict, *, asked: Decision, now: Decision) -> Refusal | None:
    """Why an operation may not pass; None: it may.

    `asked` is the decision that approval was asked for, `now` that of the policy in force.
    """
    is_in_force = now.effect is Effect.ALLOW or now.policy_version == asked.policy_version
    if verdict.state is ApprovalState.GRANTED and is_in_force:
        return None
    was_given_up = verdict.state is ApprovalState.WITHDRAWN or verdict.is_local
    message, hint = _WORDS[verdict.state]
    return Refusal(
        code=QUERY_CANCELED if was_given_up else INSUFFICIENT_PRIVILEGE,
        message=message.format(
            approval=f"approval {verdict.approval_id}" if verdict.approval_id else "the approval",
            because=f": {verdict.reason}" if verdict.reason else "",
            url=verdict.url,
        ),
        hint=hint,
    )


def waiting_notice(ticket: ApprovalTicket) -> bytes:
    """The NoticeResponse for an agent whose statement waits."""
    until = datetime.fromtimestamp(ticket.expires_at, UTC)
    return backend.build_notice(
        code=SUCCESSFUL_COMPLETION,
        message=f"Narrowgate: this statement waits for approval {ticket.approval_id}: {ticket.url}",
        hint=f"It goes on by itself once granted, until {until:%Y-%m-%d %H:%M:%S} UTC. To withdraw it, cancel it.",
    )


@dataclass(slots=True)
class SessionState:
    """What an approval depends on beside a text and its values: where names lead, and what prepared statements are.

    `_moved` hashes all that has changed it, or changed it back. What a transaction changed may end with it, so the end
    of one that has changed something counts as well, and each failure in it.

    `_reported` are the settings of which the target tells by itself, among them those by which it reads dates, times
    and intervals. It tells when it is ready for queries: until then `_unreported` hashes what may have changed them.
    """

    _moved: bytes = field(default=_NOT_MOVED)
    _reported: dict[str, str] = field(default_factory=dict)
    _unreported: bytes = field(default=_NOT_MOVED)
    _read_otherwise: set[str] = field(default_factory=set)
    _was_otherwise: bool = False
    _is_unsettled: bool = False
    _moved_within: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether the target reads texts as the gate does. If not, nothing is known of any."""
        return not self._read_otherwise

    def heed(self, name: str, value: str) -> None:
        """The target says that a setting has this value now."""
        if name not in _MEANINGLESS_SETTINGS:
            self._reported[name] = value
        if name in READING_SETTINGS:
            self._was_otherwise = self._was_otherwise or not is_read_alike(name, value)
            (self._read_otherwise.discard if is_read_alike(name, value) else self._read_otherwise.add)(name)

    def settled(self, *, is_within: bool) -> None:
        """The target is ready for queries, and has told of all settings that have changed."""
        self._is_unsettled = False
        self._unreported = _NOT_MOVED
        if self._moved_within and not is_within:
            self._move(b"end")
            self._moved_within = False

    def failed(self) -> None:
        """Something has failed, and what was changed with it is perhaps as it was."""
        if self._moved_within:
            self._move(b"failure")

    def reads_alike(self, text: bytes) -> bool:
        """Whether the target reads this text as the gate does, so far as is known when it is sent."""
        # A text of plain characters without a backslash means the same whatever the settings are.
        return self.is_readable and not (self._is_unsettled and (b"\\" in text or not text.isascii()))

    @property
    def has_moved(self) -> bool:
        """Whether names may lead elsewhere than at the session's start."""
        return self._moved != _NOT_MOVED

    def began_with(self, settings: str) -> None:
        """The session began with these settings, which lead names elsewhere."""
        self._move(settings.encode())

    def passed(self, statement: Statement) -> None:
        """The statement goes to the target."""
        # PostgreSQL tells of changed settings only when it is ready for queries; a ROLLBACK changes them back.
        self._is_unsettled = self._is_unsettled or statement.facts.moves_names or self._was_otherwise
        facts = statement.facts
        if not facts.is_read:  # a trigger, a function or a SET may change what it has not reported yet
            self._unreported = hashlib.sha256(self._unreported + statement.text).digest()
        if facts.moves_names or facts.moves_values or (facts.moves_back and self._has_something_to_move_back(facts)):
            self._move(statement.text)
            self._moved_within = True

    def _has_something_to_move_back(self, facts: Facts) -> bool:
        is_of_transaction = all(access.kind == Kind.TRANSACTION for access in facts.operation.accesses)
        return self._moved_within if is_of_transaction else self.has_moved

    def _move(self, by: bytes) -> None:
        self._moved = hashlib.sha256(self._moved + by).digest()

    def template(self, template: str) -> str:
        """What stands for a text's template as it is read now; nothing where nothing stands for it."""
        return hashlib.sha256(template.encode() + self._read_by()).hexdigest()[:32] if template else ""

    def _read_by(self) -> bytes:
        return repr(sorted(self._reported.items())).encode() + self._unreported

    def digest(self, statement: Statement, parameters: Sequence[tuple[bytes | None, bool]], names: Names) -> bytes:
        """SHA-256 of all that an approval is good for: the text, every value, and what they depend on."""
        digest = hashlib.sha256(_DIGEST_CONTEXT)
        executed = [one.text for one in executed_by(statement.facts, names)]
        for part in (statement.text, statement.types, self._moved, self._read_by(), *executed):
            digest.update(len(part).to_bytes(8, "big") + part)
        for value, is_binary in parameters:
            digest.update((b"b" if is_binary else b"t") if value is not None else b"n")
            if value is not None:
                digest.update(len(value).to_bytes(8, "big") + value)
        return digest.digest()


def executed_by(facts: Facts, names: Names) -> list[Statement]:
    """The prepared statements that a text executes by SQL's EXECUTE, and those that they execute."""
    # What the text prepares itself; a name that is taken already keeps its meaning until the target has answered.
    # A name may be prepared several times within a text, and it isn't told when it is executed: it means all of them.
    own: dict[bytes | None, Facts] = {}
    for change in facts.changes:
        if change.facts is not None:
            earlier = own.get(change.name)
            own[change.name] = change.facts if earlier is None else combined(earlier, [change.facts])
    executed: dict[bytes, Statement] = {}
    waiting = list(facts.executes)
    while waiting:
        name = waiting.pop(0)
        if name in executed:
            continue
        statement = names.statement(name)
        prepared = own.get(name)
        if prepared is not None:
            is_taken = names.has_statement(name)
            statement = Statement(statement.text, combined(statement.facts, [prepared]) if is_taken else prepared)
        executed[name] = statement
        waiting += statement.facts.executes
    return list(executed.values())


def combined(facts: Facts, others: Sequence[Facts]) -> Facts:
    """The facts of a text together with those of what it executes."""
    operations = [facts.operation, *(one.operation for one in others)]
    templates = [one.template for one in operations]
    whole = hashlib.sha256("".join(templates).encode()).hexdigest()[:32]
    return Facts(
        operation=Operation(
            accesses=tuple(dict.fromkeys(access for one in operations for access in one.accesses)),
            hazards=tuple(dict.fromkeys(hazard for one in operations for hazard in one.hazards)),
            template=whole if all(templates) else "",
        ),
        changes=facts.changes,
        executes=tuple(dict.fromkeys(name for one in (facts, *others) for name in one.executes)),
        statements=facts.statements,
        moves_names=any(one.moves_names for one in (facts, *others)),
        moves_values=any(one.moves_values for one in (facts, *others)),
        moves_back=any(one.moves_back for one in (facts, *others)),
    )
