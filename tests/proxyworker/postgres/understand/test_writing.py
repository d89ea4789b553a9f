"""However a text is written, it does the same: spaces, comments, case and quotes never make what it touches smaller."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from policies.engine import UNKNOWN_OPERATION, Operation
from proxyworker.postgres.understand import understand

TEXTS = (
    "select ssn , p . name from public . people p join orders o using ( id ) where p . id = 1 order by email",
    "with d as ( delete from people where id = 1 returning ssn ) select * from d",
    "insert into people as p ( id ) select id from orders on conflict ( id ) do update set name = p . ssn",
    "merge into people p using orders o on p . id = o . id when matched then update set name = p . ssn",
    "update people set name = email from orders where refund ( people . id ) > 0 returning note",
    "copy ( select ssn from people ) to stdout",
    "explain analyze delete from only people where id in ( select id from orders )",
    "select set_config ( 'role' , 'x' , false ) , p . to_jsonb , ( 5 ) . refund from people p",
    "create temp table t as select ssn from people ; drop table orders ; truncate people",
    "set search_path = evil",
)
NAMES = frozenset(
    ("ssn", "p", "name", "public", "people", "o", "id", "email", "d", "orders", "note", "refund", "to_jsonb", "t")
)
GAPS = st.sampled_from(
    [" ", "\n", "\t", " \r\n ", "/**/", "/* ' */", '/* /* " */ -- */', "-- '; --\n", "\f", " /*$$*/ "]
)


@st.composite
def ways_of_writing(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and the same text otherwise written."""
    text = draw(st.sampled_from(TEXTS))
    parts = [draw(GAPS)]
    for word in text.split(" "):
        if word in NAMES:
            forms = [word, word.upper(), word.title(), f'"{word}"', escaped(word)]
        elif re.fullmatch("[a-z_]+", word):
            forms = [word, word.upper(), word.swapcase().title()]
        else:
            forms = [word]
        parts += [draw(st.sampled_from(forms)), draw(GAPS)]
    return text, "".join(parts)


def escaped(word: str) -> str:
    return 'U&"' + "".join(f"\\{ord(character):04x}" for character in word) + '"'


def accesses(operation: Operation) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(access.kind, access.object, tuple(sorted(access.columns))) for access in operation.accesses}


@given(ways_of_writing())
def test_another_way_of_writing_never_touches_less(ways: tuple[str, str]) -> None:
    plain, other = (understand(text.encode()).operation for text in ways)
    assert plain is not UNKNOWN_OPERATION
    assert other is not UNKNOWN_OPERATION
    assert accesses(other) == accesses(plain)
    assert set(other.hazards) == set(plain.hazards)


@given(ways_of_writing(), st.sampled_from(["select 1", "begin", "select a from u where b = 2"]))
def test_what_stands_beside_it_never_makes_it_less(ways: tuple[str, str], beside: str) -> None:
    plain = understand(ways[0].encode()).operation
    for text in (f"{ways[1]};{beside}", f"{beside};{ways[1]}"):
        found = understand(text.encode()).operation
        assert accesses(found) >= {one for one in accesses(plain) if one[1]}
