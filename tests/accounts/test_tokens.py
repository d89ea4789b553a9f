"""Opaque tokens: recognisable, unguessable, kept as a digest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accounts.tokens import AGENT_PREFIX, API_PREFIX, make_token, parse_token


def test_a_token_that_was_made_is_recognised_by_its_digest() -> None:
    made = make_token(AGENT_PREFIX)
    presented = parse_token(made.text, prefix=AGENT_PREFIX)
    assert presented is not None
    assert presented.token_id == made.token_id
    assert presented.matches(made.digest)


def test_another_secret_under_the_same_id_doesnt_match() -> None:
    made, other = make_token(AGENT_PREFIX), make_token(AGENT_PREFIX)
    forged = f"{AGENT_PREFIX}_{made.token_id}_{other.text.rpartition('_')[2]}"
    presented = parse_token(forged, prefix=AGENT_PREFIX)
    assert presented is not None
    assert not presented.matches(made.digest)


def test_a_token_of_another_kind_is_none_of_this_kind() -> None:
    assert parse_token(make_token(API_PREFIX).text, prefix=AGENT_PREFIX) is None


def test_neither_secret_nor_digest_is_shown() -> None:
    made = make_token(AGENT_PREFIX)
    secret = made.text.rpartition("_")[2]
    assert secret not in made.digest
    assert secret not in repr(made)
    assert made.digest not in repr(parse_token(made.text, prefix=AGENT_PREFIX))


@given(st.one_of(st.text(max_size=200), st.from_regex(r"nga_[0-9a-f]{0,20}_[0-9a-fA-F]{0,70}\n?", fullmatch=True)))
def test_any_text_is_a_token_or_none(text: str) -> None:
    presented = parse_token(text, prefix=AGENT_PREFIX)
    assert presented is None or len(text) == len(AGENT_PREFIX) + 16 + 64 + 2
