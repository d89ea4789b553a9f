"""What an agent is told when the gate can't read its statement: the parser's words, before the policy's.

Whatever can't be read touches every rule that restricts, so the rule that refuses it may speak of something else
altogether: "name the rows that it is about" is no answer to a misspelt SELECT.
"""

from __future__ import annotations

from typing import Final

import msgspec
from pglast.parser import ParseError, parse_sql_json

from policies.engine import UNKNOWN_OPERATION, Decision, Operation
from policies.engine.words import printable

#: A longer text isn't parsed a second time for the sake of its refusal: some 10 ms of the event loop.
MAX_EXPLAINED_BYTES: Final = 64 * 1024

_CORRECT: Final = "Correct the statement and send it again."
_SIMPLER: Final = "Send it in other or smaller statements; bulk data by COPY."
_NEW_SESSION: Final = "Begin a new session, and leave standard_conforming_strings and client_encoding as they are."


def is_unread(operation: Operation) -> bool:
    """Nothing is known of what it does."""
    return operation is UNKNOWN_OPERATION or operation == UNKNOWN_OPERATION


def explained(denied: Decision, text: bytes, *, is_readable: bool) -> Decision:
    """The denial of a text that wasn't read, saying why it wasn't. `is_readable`: the target reads texts as we do."""
    if is_readable:
        problem, help_ = _problem_of(text)
    else:
        problem, help_ = "the target reads texts otherwise since this session changed a setting", _NEW_SESSION
    reason = f"this statement can't be read: {problem}. What can't be read is refused here, by {denied.rule!r}"
    return msgspec.structs.replace(denied, reason=reason, help=help_)


def _problem_of(text: bytes) -> tuple[str, str]:
    if len(text) > MAX_EXPLAINED_BYTES:
        return "it is too long", _SIMPLER
    try:
        parse_sql_json(text.decode())
    except UnicodeDecodeError:
        return "it is no valid UTF-8", _CORRECT
    except ParseError as error:
        message, at = error.args[0], error.args[1] if len(error.args) > 1 else None
        where = "" if at is None else f" (character {at + 1})"
        return f"{printable(str(message))}{where}", _CORRECT
    except ValueError:
        return "it can't be parsed", _CORRECT
    return "what it does can't be told from its text", _SIMPLER
