"""An approval is bound to exactly what was seen: any change of any of it is another digest."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from policies.approvals.binding import binding_of, principal_digest, template_digest
from policies.engine import Access, Operation
from proxyworker.postgres.held import SessionState
from proxyworker.postgres.names import Names, Statement
from proxyworker.postgres.understand.reader import understand

VALUES = st.lists(st.tuples(st.none() | st.binary(max_size=8), st.booleans()), max_size=4)
TEXTS = st.sampled_from([b"DELETE FROM orders WHERE id = $1", b"DELETE FROM orders WHERE id = $1 ", b"delete from o"])
PRINCIPALS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=5),
        "groups": st.lists(st.text(max_size=3), max_size=3),
        "on_behalf_of": st.text(max_size=5),
        "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    }
)
BOUND = st.fixed_dictionaries(
    {
        "operation_sha256": st.binary(min_size=32, max_size=32),
        "principal_sha256": st.binary(min_size=32, max_size=32),
        "target_id": st.text(max_size=6),
        "policy_version": st.text(max_size=6),
    }
)


def operation_digest(text: bytes, values: Any) -> bytes:
    """The gate's, of a statement at the start of a session."""
    return SessionState().digest(Statement(text, understand(text)), values, Names())


def effective(values: Any) -> Any:
    """NULL is NULL, in whichever form it was sent."""
    return [(value, is_binary and value is not None) for value, is_binary in values]


@given(TEXTS, VALUES, TEXTS, VALUES)
def test_another_text_or_value_is_another_operation(text: bytes, values: Any, other: bytes, others: Any) -> None:
    is_same = (text, effective(values)) == (other, effective(others))
    assert (operation_digest(text, values) == operation_digest(other, others)) is is_same


def test_null_empty_text_and_binary_are_three_things() -> None:
    forms: tuple[Any, ...] = (
        [(None, False)],
        [(b"", False)],
        [(b"", True)],
        [],
        [(b"1", False), (b"", False)],
        [(b"", False)] * 2,
    )
    assert len({operation_digest(b"SELECT $1", form) for form in forms}) == len(forms)


@given(BOUND, BOUND)
def test_the_binding_is_the_same_only_when_all_four_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (binding_of(**one) == binding_of(**other)) is (one == other)


@given(BOUND, st.sampled_from(["operation_sha256", "principal_sha256", "target_id", "policy_version"]))
def test_any_single_change_is_another_binding(bound: dict[str, Any], name: str) -> None:
    changed = {**bound, name: bound[name][:-1] + (b"?" if isinstance(bound[name], bytes) else "?")}
    assume(changed != bound)
    assert binding_of(**changed) != binding_of(**bound)


@given(PRINCIPALS, PRINCIPALS)
def test_a_principal_is_the_same_only_when_all_of_it_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (principal_digest(one) == principal_digest(other)) is (one == other)
    assert principal_digest(json.loads(json.dumps(one))) == principal_digest(one)


def test_what_moves_from_one_field_into_the_next_is_another_binding() -> None:
    sha = bytes(32)
    bind = {"operation_sha256": sha, "principal_sha256": sha}
    assert binding_of(**bind, target_id="ab", policy_version="c") != binding_of(
        **bind, target_id="a", policy_version="bc"
    )


def test_a_template_covers_the_same_accesses_and_hazards_only() -> None:
    plain = Operation(accesses=(Access("delete", "orders"),), template="t")
    others = (
        Operation(accesses=(Access("delete", "customers"),), template="t"),
        Operation(accesses=(Access("delete", "orders"),), hazards=("drop",), template="t"),
        Operation(accesses=(Access("delete", "orders"),), template="u"),
    )
    assert len({template_digest(plain), *map(template_digest, others)}) == 4
    assert template_digest(Operation(accesses=plain.accesses)) is None
