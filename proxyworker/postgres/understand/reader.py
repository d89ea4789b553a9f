"""`understand`: a text's facts, kept for texts that come again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from policies.engine import Access, Hazard, Kind, Operation
from proxyworker.postgres.understand.accesses import Accesses, TooMuch
from proxyworker.postgres.understand.facts import NAMELESS_UNKNOWN_FACTS, UNKNOWN_FACTS, Facts, NameChange
from proxyworker.postgres.understand.kinds import STATEMENT_KINDS
from proxyworker.postgres.understand.queries import Queries
from proxyworker.postgres.understand.skeleton import literals_of, skeleton_of
from proxyworker.postgres.understand.tree import Node, Tree, Unreadable, digest_of, parse
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


K = TypeVar("K", bytes, str)


class _Kept(Generic[K]):
    """Facts by a text or by a tree's shape, the oldest dropped first."""

    def __init__(self) -> None:
        self._facts: dict[K, Facts] = {}
        self._size = 0
        self.get: Callable[[K], Facts | None] = self._facts.get

    def put(self, key: K, facts: Facts) -> None:
        """Keep them."""
        if len(key) > MAX_KEPT_TEXT_BYTES or key in self._facts:
            return
        self._facts[key] = facts
        self._size += len(key)
        while len(self._facts) > KEPT_TEXTS or self._size > KEPT_BYTES:
            oldest = next(iter(self._facts))
            del self._facts[oldest]
            self._size -= len(oldest)


_kept: _Kept[bytes] = _Kept()
#: Of texts whose facts don't hang on their constants: with literals every text is new, but its shape isn't.
_kept_shapes: _Kept[str] = _Kept()
#: Of the same texts without being parsed: by what is left without their literals.
_kept_skeletons: _Kept[bytes] = _Kept()


def understand(text: bytes) -> Facts:
    """The facts of a text, as it comes in a Query or a Parse. What can't be read is `UNKNOWN_FACTS`. Never raises."""
    facts = _kept.get(text)
    if facts is None:
        facts = _kept_skeletons.get(skeleton_of(text))
    if facts is None:
        facts = _read(text)
        _kept.put(text, facts)
    return facts


def _read(text: bytes) -> Facts:
    try:
        return _of_shape(parse(text), text)
    except (Unreadable, TooMuch, RecursionError):
        return unread(text)
    except (LookupError, TypeError, ValueError, AttributeError):
        # A tree of a form that isn't known here: as good as unparsed, whatever it may mean.
        return unread(text)


def _of_shape(tree: Tree, text: bytes) -> Facts:
    facts = _kept_shapes.get(tree.shape)
    is_of_shape = facts is not None
    if facts is None:
        facts, is_of_shape = _facts_of(tree, text)
        if is_of_shape:
            _kept_shapes.put(tree.shape, facts)
    if is_of_shape and (skeleton := skeleton_of(text)) and tree.has_constants_at(literals_of(text)):
        _kept_skeletons.put(skeleton, facts)
    return facts


def unread(text: bytes) -> Facts:
    """What is known of a text without reading it."""
    return NAMELESS_UNKNOWN_FACTS if _NAMES_MAY_CHANGE.search(text) is None else UNKNOWN_FACTS


def _facts_of(tree: Tree, text: bytes) -> tuple[Facts, bool]:
    """The facts, and whether all texts of this shape have the same."""
    statements = tree.statements()
    if not statements:
        return Facts(operation=_EMPTY, is_read=True, is_pure=True), False
    accesses = Accesses()
    if not _gather(statements, accesses):
        return unread(text), False
    changes = [change for name, node in statements for change in _changes(name, node, text)]
    template = tree.template(with_constants=not accesses.has_template)
    facts = _made(accesses, template, statements=len(statements), changes=changes)
    return facts, accesses.has_template and not changes


def _gather(statements: Sequence[tuple[str, Node]], accesses: Accesses) -> bool:
    """Read all of them. False: one is of a type that isn't known."""
    queries = Queries(accesses)
    utilities = Utilities(accesses, queries)
    for name, node in statements:
        if queries.is_query(name):
            queries.read(name, node)
        elif name in STATEMENT_KINDS:
            utilities.read(name, node)
        else:
            return False
    if len(statements) > 1:
        accesses.hazard(Hazard.MULTI_STATEMENT)
    return True


def _made(accesses: Accesses, template: str, *, statements: int, changes: Sequence[NameChange] = ()) -> Facts:
    return Facts(
        operation=Operation(
            accesses=accesses.finish() or (Access(Kind.SELECT),), hazards=accesses.hazards, template=template
        ),
        is_read=not accesses.has_effect,
        changes=tuple(changes),
        executes=tuple(accesses.executes),
        statements=statements,
        is_pure=accesses.is_pure,
        moves_names=accesses.moves_names,
        moves_values=accesses.moves_values,
        moves_back=accesses.moves_back,
    )


def _changes(name: str, node: Node, text: bytes) -> list[NameChange]:
    """What a statement does to the names of prepared statements, which SQL and the protocol share."""
    match name:
        case "PrepareStmt":
            accesses = Accesses()
            if not _gather(list(node["query"].items()), accesses):
                return [NameChange(None, None)]
            # Its template takes in the text around it: better too narrow than too wide.
            facts = _made(accesses, digest_of(text.decode()), statements=1)
            return [NameChange(node.get("name", "").encode(), text, facts)]
        case "DeallocateStmt":
            return [NameChange(node["name"].encode() if node.get("name") else None, None)]
        case "DiscardStmt" if node.get("target") == "DISCARD_ALL":
            return [NameChange(None, None)]
    return []
