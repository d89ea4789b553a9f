"""Envelope encryption: what was sealed opens in its context, under any key that is still there, and nowhere else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.keyring import (
    MAX_PLAINTEXT_BYTES,
    Keyring,
    KeyringError,
    generate_keyring,
    open_sealed,
    parse_keyring,
    seal,
)

RING = parse_keyring(generate_keyring())
SECRET = b"correct horse battery staple"
SEALED = RING.seal(SECRET, context="row 1")


@given(st.binary(max_size=2_000), st.text(max_size=50))
def test_what_was_sealed_opens_in_its_context(plaintext: bytes, context: str) -> None:
    assert RING.open(RING.seal(plaintext, context=context), context=context) == plaintext


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(KeyringError):
        RING.open(text, context="row 1")


@given(st.data())
def test_an_altered_secret_is_refused(data: st.DataObject) -> None:
    sealed = SEALED  # the same for every example: what is drawn must not hang on fresh randomness
    at = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.sampled_from("abcXYZ0189-_.").filter(lambda character: character != sealed[at]))
    altered = sealed[:at] + other + sealed[at + 1 :]
    try:
        opened = RING.open(altered, context="row 1")
    except KeyringError:
        return
    assert opened == SECRET  # the unused low bits of a last base64 character


def test_a_secret_moved_to_another_row_is_refused() -> None:
    with pytest.raises(KeyringError, match="belongs elsewhere"):
        RING.open(RING.seal(SECRET, context="row 1"), context="row 2")


def test_a_secret_sealed_twice_looks_different() -> None:
    assert RING.seal(SECRET, context="row 1") != RING.seal(SECRET, context="row 1")


def test_after_a_rotation_the_new_key_seals_and_the_old_one_still_opens() -> None:
    old = generate_keyring("old")
    sealed = parse_keyring(old).seal(SECRET, context="row 1")
    rotated = parse_keyring(generate_keyring("new") + old)
    assert rotated.active == "new"
    assert rotated.open(sealed, context="row 1") == SECRET


def test_a_key_that_was_thrown_away_is_named() -> None:
    sealed = parse_keyring(generate_keyring("old")).seal(SECRET, context="row 1")
    with pytest.raises(KeyringError, match="lacks key 'old'"):
        RING.open(sealed, context="row 1")


def test_a_secret_too_long_is_refused() -> None:
    with pytest.raises(KeyringError, match="at most"):
        RING.seal(b"x" * (MAX_PLAINTEXT_BYTES + 1), context="row 1")


KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "k1", f"K1:{KEY}", f":{KEY}", f"k1:{KEY[:-4]}", f"k1:{KEY}\nk1:{KEY}", "k1:not base64!"],
)
def test_a_keyring_that_isnt_one_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(KeyringError) as caught:
        parse_keyring(text)
    assert KEY[:20] not in str(caught.value)


def test_a_keyring_doesnt_show_its_keys() -> None:
    keyring = Keyring(active="k1", keys={"k1": b"k" * 32})
    assert "kkkk" not in repr(keyring)


def test_the_configured_keyring_seals_and_opens() -> None:
    assert open_sealed(seal(SECRET, context="row 1"), context="row 1") == SECRET
