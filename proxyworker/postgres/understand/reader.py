"""`understand`: a text's facts, kept for texts that come again."""

from __future__ import annotations

import re
from typing import Final

from policies.engine import Access, Hazard, Kind, Operation
from proxyworker.postgres.understand.accesses import Accesses, TooMuch
from proxyworker.postgres.understand.facts import NAMELESS_UNKNOWN_FACTS, UNKNOWN_FACTS, Facts, NameChange
from proxyworker.postgres.understand.kinds import STATEMENT_KINDS
from proxyworker.postgres.understand.queries import Queries
from proxyworker.postgres.understand.tree import Node, Tree, Unreadable, parse
from proxyworker.postgres.understand.utilities import Utilities

#: Texts whose facts are kept, and all of them together. With literals in the text every statement is new, so both are
#: small; what is long rarely comes again.
KEPT_TEXTS: Final = 4_096
KEPT_BYTES: Final = 8 * 1024 * 1024
MAX_KEPT_TEXT_BYTES: Final = 64 * 1024

#: Of no statement at all, which clients send to see whether the session lives.
_EMPTY: Final = Operation(accesses=(Access(Kind.SELECT),))

#: Words without which no statement makes or drops a prepared statement.
_NAMES_MAY_CHANGE: Final = re.compile(rb"\b(?:prepare|deallocate|discard)\b", re.IGNORECASE)


class _Kept:
    """Facts by text, the oldest dropped first."""

    def __init__(self) -> None:
        self._facts: dict[bytes, Facts] = {}
        self._bytes = 0
        self.get = self._facts.get

    def put(self, text: bytes, facts: Facts) -> None:
        """Keep them."""
        if len(text) > MAX_KEPT_TEXT_BYTES or text in self._facts:
            return
        self._facts[text] = facts
        self._bytes += len(text)
        while len(self._facts) > KEPT_TEXTS or self._bytes > KEPT_BYTES:
            oldest = next(iter(self._facts))
            del self._facts[oldest]
            self._bytes -= len(oldest)


_kept = _Kept()


def understand(text: bytes) -> Facts:
    """The facts of a text, as it comes in a Query or a Parse. What can't be read is `UNKNOWN_FACTS`. Never raises."""
    facts = _kept.get(text)
    if facts is None:
        facts = _read(text)
        _kept.put(text, facts)
    return facts


def _read(text: bytes) -> Facts:
    try:
        return _facts_of(parse(text), text)
    except (Unreadable, TooMuch, RecursionError):
        return unread(text)
    except (LookupError, TypeError, ValueError, AttributeError):
        # A tree of a form that isn't known here: as good as unparsed, whatever it may mean.
        return unread(text)


def unread(text: bytes) -> Facts:
    """What is known of a text without reading it."""
    return NAMELESS_UNKNOWN_FACTS if _NAMES_MAY_CHANGE.search(text) is None else UNKNOWN_FACTS


def _facts_of(tree: Tree, text: bytes) -> Facts:
    if not tree.statements:
        return Facts(operation=_EMPTY, is_read=True, is_pure=True)
    accesses = Accesses()
    queries = Queries(accesses)
    utilities = Utilities(accesses, queries)
    changes: list[NameChange] = []
    for name, node in tree.statements:
        if queries.is_query(name):
            queries.read(name, node)
        elif name in STATEMENT_KINDS:
            utilities.read(name, node)
            changes += _changes(name, node, text)
        else:
            return unread(text)
    if len(tree.statements) > 1:
        accesses.hazard(Hazard.MULTI_STATEMENT)
    found = accesses.finish() or (Access(Kind.SELECT),)
    return Facts(
        operation=Operation(
            accesses=found,
            hazards=accesses.hazards,
            template=tree.template(with_constants=not accesses.has_template),
        ),
        is_read=not accesses.has_effect,
        changes=tuple(changes),
        executes=tuple(accesses.executes),
        statements=len(tree.statements),
        is_pure=accesses.is_pure,
        moves_names=accesses.moves_names,
    )


def _changes(name: str, node: Node, text: bytes) -> list[NameChange]:
    """What a statement does to the names of prepared statements, which SQL and the protocol share."""
    match name:
        case "PrepareStmt":
            # The template of what is prepared takes in the text around it: better too narrow than too wide.
            facts = _facts_of(Tree(list(node["query"].items()), text.decode()), text)
            return [NameChange(node.get("name", "").encode(), text, facts)]
        case "DeallocateStmt":
            return [NameChange(node["name"].encode() if node.get("name") else None, None)]
        case "DiscardStmt" if node.get("target") == "DISCARD_ALL":
            return [NameChange(None, None)]
    return []
