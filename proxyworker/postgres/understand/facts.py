"""What comes out of reading a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policies.engine import UNKNOWN_OPERATION, Access, Kind, Operation


@dataclass(frozen=True, slots=True)
class NameChange:
    """A statement in SQL that makes or drops a prepared statement.

    `name` None drops all; `text` None drops `name`. `facts` are those of the statement that is prepared.
    """

    name: bytes | None
    text: bytes | None
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a text, which may hold several statements.

    `is_read`: it certainly has no effect of its own, so the wait for the disk may overlap the target's work. Views,
    operators and casts may still call functions that the text does not show.
    `executes`: prepared statements that it runs by SQL's EXECUTE; what they do comes on top of `operation`.
    `is_pure`: it calls no function but pure ones, so that planning it has no effect.
    `moves_names`: after it, names in later texts may lead elsewhere (search_path, role, settings of the parser).
    `moves_values`: after it, what the application's own settings are, which row security and functions read.
    `moves_back`: after it, either is as it was, perhaps (RESET, DISCARD, the end of a transaction).
    """

    operation: Operation
    is_read: bool = False
    changes: tuple[NameChange, ...] = ()
    executes: tuple[bytes, ...] = ()
    statements: int = 0
    is_pure: bool = False
    moves_names: bool = False
    moves_values: bool = False
    moves_back: bool = False


#: Of a text that can't be read and mentions names: it may do anything to them.
UNKNOWN_FACTS: Final = Facts(operation=UNKNOWN_OPERATION, changes=(NameChange(None, None),), moves_names=True)
#: Of one that doesn't mention them.
NAMELESS_UNKNOWN_FACTS: Final = Facts(operation=UNKNOWN_OPERATION, moves_names=True)
#: Of going on with what SQL has declared: what it shows was decided then.
CURSOR_FACTS: Final = Facts(operation=Operation(accesses=(Access(Kind.CURSOR),)))
