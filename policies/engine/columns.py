"""Columns of a target by their full names, and which of them a limit counts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from policies.engine.model import Limit, Policy

#: As PostgreSQL would write it: what isn't small and plain is in double quotes.
_PART: Final = re.compile(r'([a-z_][a-z0-9_$]*)|"((?:[^"]|"")+)"')
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")


def split_column(name: str) -> tuple[str, str, str] | None:
    """Schema, table and column of `schema.table.column`, as the target has them; None for what is no such name."""
    parts: list[str] = []
    at = 0
    while len(parts) < 3:
        found = _PART.match(name, at)
        if found is None:
            return None
        parts.append(found[1] or found[2].replace('""', '"'))
        at = found.end()
        if len(parts) < 3:
            if name[at : at + 1] != ".":
                return None
            at += 1
    return (parts[0], parts[1], parts[2]) if at == len(name) and all(map(str.isprintable, parts)) else None


def join_column(schema: str, table: str, column: str) -> str:
    """The full name of a column: what `split_column` takes apart."""
    return ".".join(
        part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"' for part in (schema, table, column)
    )


def counted_columns(limit: Limit, policy: Policy, target: str) -> frozenset[str]:
    """The columns of the target whose distinct values the limit counts."""
    wanted = frozenset(limit.labels)
    labelled = policy.labelled.get(target, {})
    return frozenset(limit.columns).union(name for name, labels in labelled.items() if not wanted.isdisjoint(labels))


def labels_asked_for(policy: Policy) -> frozenset[str]:
    """All labels that some rule counts by."""
    return frozenset(_labels(rule.limit for rule in policy.rules))


def _labels(limits: Iterable[Limit | None]) -> Iterable[str]:
    return (label for limit in limits if limit is not None and limit.distinct for label in limit.labels)
