"""Prepared statements and portals by name, so that an execution is recorded with the text that it executes.

The protocol and SQL share the names (PREPARE, DEALLOCATE), a name can't be made twice, and whether it was made is only
known once the target has answered. Where what a name means hangs on an answer that is under way, the session waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from proxyworker.postgres.understand import CURSOR_FACTS, NAMELESS_UNKNOWN_FACTS, UNKNOWN_FACTS, Facts, NameChange

#: Named statements of one session. Drivers keep some hundred; the target's own memory ends long before this.
MAX_STATEMENTS: Final = 20_000
#: All texts of one session's named statements together.
MAX_STATEMENT_TEXT_BYTES: Final = 64 * 1024 * 1024
MAX_PORTALS: Final = 20_000

UNNAMED: Final = b""


class Statement(msgspec.Struct, frozen=True):
    """A prepared statement. `types`: its parameters', as Parse gave them; none for one that SQL made."""

    text: bytes
    facts: Facts
    types: bytes = b""


class TooManyNames(Exception):
    """The session has more names than the gate can follow."""


class Names:
    """What the names of one session stand for. `segment`: how often the agent has sent a Sync."""

    def __init__(self) -> None:
        self.segment = 0
        #: Closed, as far as is known: a Close that is skipped has closed nothing.
        self._closing: Counter[bytes] = Counter()
        #: Parses of names that had another meaning, which they keep if the Parse is skipped: by segment.
        self._in_doubt: dict[bytes, int] = {}
        self._statements: dict[bytes, Statement] = {}
        self._portals: dict[bytes, Statement] = {}
        self._text_bytes = 0

    def has_statement(self, name: bytes) -> bool:
        """Whether a Parse of this name may fail because the name is taken. The unnamed statement is always replaced."""
        return name != UNNAMED and name in self._statements

    def set_statement(self, name: bytes, statement: Statement) -> None:
        """The name stands for this from now on. Raises `TooManyNames`."""
        self.drop_statement(name)
        self._text_bytes += len(statement.text)
        self._statements[name] = statement
        if len(self._statements) > MAX_STATEMENTS or self._text_bytes > MAX_STATEMENT_TEXT_BYTES:
            raise TooManyNames

    def replace_statement(self, name: bytes, statement: Statement, *, may_skip: bool) -> Callable[[bool], None]:
        """A Parse of a name that isn't known to be taken. Returns what is to be called when it is answered.

        If the target skips it, for what stands before it fails, the name may go on to mean what it did. Within its
        segment all else is skipped then too; behind the next Sync it isn't known what the name means. Raises
        `TooManyNames`.
        """
        kept = self._statements.get(name)
        has_changed = kept is not None and kept.text != statement.text
        if self._closing[name] or (may_skip and (has_changed or name in self._in_doubt)):
            self._in_doubt[name] = self.segment
        else:
            self._in_doubt.pop(name, None)
        self.set_statement(name, statement)

        def answered(succeeded: bool) -> None:
            if not succeeded:
                self.drop_statement(name, statement)
            current = self._statements.get(name)
            if current is None or current is statement:
                self._in_doubt.pop(name, None)

        return answered

    def close_statement(self, name: bytes) -> Callable[[], None]:
        """A Close. Returns what is to be called when it is answered."""
        self.drop_statement(name)
        self._closing[name] += 1

        def answered() -> None:
            self._closing[name] -= 1
            if not self._closing[name]:
                del self._closing[name]

        return answered

    def drop_statement(self, name: bytes, only: Statement | None = None) -> None:
        """The name stands for nothing; with `only`, if it stood for that."""
        statement = self._statements.get(name)
        if statement is not None and (only is None or statement is only):
            self._text_bytes -= len(statement.text)
            del self._statements[name]

    def statement(self, name: bytes) -> Statement:
        """What the name stands for. A name that was not made here is one that SQL made; its text is on record there."""
        # Which letters beyond ASCII are the same in a name hangs on the target's encoding.
        if not name.isascii() or self._in_doubt.get(name, self.segment) != self.segment:
            return _unknown(b"EXECUTE", name, NAMELESS_UNKNOWN_FACTS)
        return self._statements.get(name) or _unknown(b"EXECUTE", name, NAMELESS_UNKNOWN_FACTS)

    def apply(self, changes: tuple[NameChange, ...]) -> None:
        """SQL has made or dropped names. Raises `TooManyNames`."""
        for change in changes:
            if change.name is None:
                self._statements.clear()
                self._text_bytes = 0
            elif change.text is None:
                self.drop_statement(change.name)
            else:
                self.set_statement(change.name, Statement(change.text, change.facts or UNKNOWN_FACTS))

    def set_portal(self, name: bytes, statement: Statement) -> None:
        """The portal runs this statement from now on. Raises `TooManyNames`."""
        self._portals[name] = statement
        if len(self._portals) > MAX_PORTALS:
            raise TooManyNames

    def has_portal(self, name: bytes) -> bool:
        """Whether a Bind of this name may fail because the name is taken."""
        return name != UNNAMED and name in self._portals

    def drop_portal(self, name: bytes, only: Statement | None = None) -> None:
        """The portal is closed; with `only`, if it runs that."""
        if only is None or self._portals.get(name) is only:
            self._portals.pop(name, None)

    def portal(self, name: bytes) -> Statement:
        """What the portal runs; one not made here is a cursor that SQL declared."""
        return self._portals.get(name) or _unknown(b"FETCH FROM", name, CURSOR_FACTS)

    def transaction_ended(self) -> None:
        """No portal outlives its transaction."""
        self._portals.clear()


def _unknown(verb: bytes, name: bytes, facts: Facts) -> Statement:
    return Statement(verb + b' "' + name.replace(b'"', b'""') + b'"', facts)
