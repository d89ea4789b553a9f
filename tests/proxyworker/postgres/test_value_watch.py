"""Which rows may go: never more counted values than the limit has, against a plain count over all that was shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from policies.engine import Limit, LimitPer
from proxyworker.gate.distinct import ValuePool
from proxyworker.gate.verdicts import Exhausted
from proxyworker.postgres.catalog import Catalog
from proxyworker.postgres.values import Plan, Watch, _Lane
from proxyworker.wire.postgres import backend
from tests.proxyworker.wire.test_rows import data_row

CUSTOMERS, ORDERS, VIEW, NEW = 20_000, 20_001, 20_002, 20_003
CATALOG = Catalog(
    ("public.customers.email",),
    {
        "counted": [[1, CUSTOMERS, 2, "email"]],
        "reaching": [[1, VIEW, 3, False]],
        "relations": [
            [CUSTOMERS, "public", "customers", 3],
            [ORDERS, "public", "orders", 2],
            [VIEW, "public", "book", 1],
        ],
        "statistics": [],
    },
)
TEXT, INT = 25, 20


@dataclass(frozen=True)
class Column:
    """Where it comes from, and whether its values are counted, or may be anything."""

    table: int
    attribute: int
    type: int
    is_counted: bool = False
    is_derived: bool = False


EMAIL = Column(CUSTOMERS, 2, TEXT, is_counted=True)
COLUMNS = (
    EMAIL,
    Column(CUSTOMERS, 2, INT, is_counted=True),
    Column(CUSTOMERS, 1, TEXT),
    Column(ORDERS, 1, INT),
    Column(0, 0, TEXT, is_derived=True),
    Column(VIEW, 1, TEXT, is_derived=True),
    Column(NEW, 1, TEXT, is_derived=True),
    Column(ORDERS, 3, TEXT, is_derived=True),
    Column(CUSTOMERS, 4, TEXT, is_derived=True),
    Column(CUSTOMERS, 0, TEXT, is_derived=True),
    Column(1259, 2, TEXT),
)
CELLS = st.one_of(st.none(), st.sampled_from([bytes((letter,)) for letter in b"abcdefgh"]))


def description(columns: list[Column], form: int) -> bytes:
    """A RowDescription."""
    fields = b"".join(
        b"x\x00" + struct.pack("!IhIhih", one.table, one.attribute, one.type, -1, -1, form) for one in columns
    )
    body = struct.pack("!H", len(columns)) + fields
    return b"T" + struct.pack("!I", len(body) + 4) + body


def watch_of(pool: ValuePool, weight: int) -> Watch:
    """Of a statement that reads the labelled column."""
    plan = Plan(CATALOG.counted(CATALOG.columns), derives=True, gathers=False, weight=weight)
    return Watch([_Lane(pool, plan, CATALOG)], described=None, on_described=lambda _: None)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Column], int, list[list[bytes | None]]]:
    """Columns, the form of their values, and rows."""
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4))
    rows = draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), max_size=15))
    return columns, draw(st.integers(0, 1)), rows


@given(
    asked=st.lists(answers(), min_size=1, max_size=4),
    limit=st.integers(1, 12),
    weight=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
def test_no_more_is_shown_than_the_limit_has_however_it_comes(
    asked: list[tuple[list[Column], int, list[list[bytes | None]]]], limit: int, weight: int, cuts: list[int]
) -> None:
    pool = ValuePool("few", Limit(per=LimitPer.SESSION, distinct=limit, labels=("email",)))
    shown: set[tuple[str, bytes]] = set()
    derived = 0
    was_kept_back = False
    for columns, form, rows in asked:
        watch = watch_of(pool, weight)
        frame = description(columns, form)
        watch.heed(backend.ROW_DESCRIPTION, frame, 0, len(frame), is_final=True)
        is_derived = any(one.is_derived for one in columns)
        assert watch.looks == (is_derived or any(one.is_counted for one in columns))
        number = 0
        for row in through(watch, [data_row(row) for row in rows], cuts):
            assert row == data_row(rows[number])
            derived += weight * is_derived
            for column, cell in zip(columns, rows[number], strict=True):
                if column.is_counted and cell is not None:
                    kind = "text" if column.type == TEXT else f"int {form}"
                    shown.add((kind, cell))
            number += 1
        assert len(shown) + derived <= limit or not watch.looks
        if number < len(rows) and not was_kept_back:  # rightly; what it counted for goes on counting, if in part
            was_kept_back = True
            fresh = {
                ("text" if column.type == TEXT else f"int {form}", cell)
                for column, cell in zip(columns, rows[number], strict=True)
                if column.is_counted and cell is not None
            } - shown
            assert len(shown) + derived + len(fresh) + weight * is_derived > limit


def through(watch: Watch, frames: list[bytes], cuts: list[int]) -> list[bytes]:
    """The rows that are shown of those that come in such pieces; none once one is kept back."""
    data, buffer, shown = b"".join(frames), b"", b""
    at = 0
    sizes = [*cuts, len(data) or 1]
    for size in sizes:
        buffer += data[at : at + size]
        at += size
        if not watch.looks:
            shown, buffer = shown + buffer, b""
            continue
        look = watch.look(buffer, 0, len(buffer))
        shown, buffer = shown + buffer[: look.end], buffer[look.end :]
        if isinstance(look.problem, Exhausted):
            break
    whole = []
    while shown:
        end = 1 + int.from_bytes(shown[1:5], "big")
        whole.append(shown[:end])
        shown = shown[end:]
    return whole


def test_a_value_counts_once_in_text_and_binary_if_both_are_the_same() -> None:
    pool = ValuePool("few", Limit(per=LimitPer.SESSION, distinct=1, labels=("email",)))
    for form in (0, 1):
        watch = watch_of(pool, 1)
        frame = description([EMAIL], form)
        watch.heed(backend.ROW_DESCRIPTION, frame, 0, len(frame), is_final=True)
        assert len(through(watch, [data_row([b"a"]), data_row([None])], [100])) == 2


def test_what_is_not_described_counts_by_rows() -> None:
    pool = ValuePool("few", Limit(per=LimitPer.SESSION, distinct=7, labels=("email",)))
    watch = watch_of(pool, 3)
    assert len(through(watch, [data_row([b"a"])] * 5, [3, 5, 200])) == 2
