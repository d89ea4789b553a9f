"""The worker's key and what it signs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyworker.contract import LINK_SIGNATURE_CONTEXT, LINK_VERSION, Authenticate, Challenge, Enrol, encode
from proxyworker.errors import IdentityError
from proxyworker.identity import Identity
from tests.proxyworker.records import session_id

CHALLENGE = Challenge(link_version=LINK_VERSION, nonce=bytes(range(32)))


def test_the_key_is_made_once_and_is_for_nobody_else_to_read(identity: Identity, tmp_path: Path) -> None:
    key_file = tmp_path / "state" / "identity.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    again = Identity(tmp_path / "state", name="test-worker", join_token_file=tmp_path / "join-token")
    assert again.answer(CHALLENGE) == identity.answer(CHALLENGE)


def test_the_answer_is_signed_over_context_nonce_and_key(identity: Identity) -> None:
    answer = identity.answer(CHALLENGE)
    assert isinstance(answer, Enrol)
    signed = LINK_SIGNATURE_CONTEXT + CHALLENGE.nonce + answer.public_key
    Ed25519PublicKey.from_public_bytes(answer.public_key).verify(answer.signature, signed)


def test_an_enrolled_worker_needs_no_join_token(identity: Identity, tmp_path: Path) -> None:
    identity.enrolled(session_id(5))
    again = Identity(tmp_path / "state", name="test-worker", join_token_file=None)
    answer = again.answer(CHALLENGE)
    assert isinstance(answer, Authenticate)
    assert answer.worker_id == session_id(5)


def test_a_key_that_others_can_read_is_refused(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "state" / "identity.key").chmod(0o640)
    with pytest.raises(IdentityError, match="others can read"):
        Identity(tmp_path / "state", name="test-worker", join_token_file=None)


@pytest.mark.parametrize(("name", "content"), [("identity.key", "no key"), ("worker-id", "no id")])
def test_a_damaged_file_is_named_with_its_fix(identity: Identity, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "state" / name).write_text(content)
    with pytest.raises(IdentityError, match=f"{name}: .*Remove it and enrol anew"):
        Identity(tmp_path / "state", name="test-worker", join_token_file=None)


@pytest.mark.parametrize("token", ["", "  \n", "schlüssel"])
def test_a_join_token_file_without_a_token_is_refused(identity: Identity, join_token_file: Path, token: str) -> None:
    join_token_file.write_text(token)
    with pytest.raises(IdentityError, match="holds no join token"):
        identity.answer(CHALLENGE)


def test_a_process_signs_its_number_and_waits_until_the_first_has_enrolled(identity: Identity, tmp_path: Path) -> None:
    third = Identity(tmp_path / "state", name="test-worker", join_token_file=None, process=2, processes=3)
    with pytest.raises(IdentityError, match="process 0 has to"):
        third.answer(CHALLENGE)
    enrolment = identity.answer(CHALLENGE)
    assert isinstance(enrolment, Enrol)
    identity.enrolled(session_id(5))
    answer = third.answer(CHALLENGE)
    assert isinstance(answer, Authenticate)
    assert (answer.worker_id, answer.process, answer.processes) == (session_id(5), 2, 3)
    signed = LINK_SIGNATURE_CONTEXT + CHALLENGE.nonce + enrolment.public_key + b"\0\2\0\3"
    Ed25519PublicKey.from_public_bytes(enrolment.public_key).verify(answer.signature, signed)


def test_a_worker_of_one_process_signs_on_as_it_did_before_there_were_several(identity: Identity) -> None:
    assert b"process" not in encode(identity.answer(CHALLENGE))


def test_without_a_join_token_a_new_worker_says_what_it_needs(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "state", name="test-worker", join_token_file=None)
    with pytest.raises(IdentityError, match="NARROWGATE_JOIN_TOKEN_FILE"):
        identity.answer(CHALLENGE)
