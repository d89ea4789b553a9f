"""The cancel keys that agents hold."""

from __future__ import annotations

import pytest

from proxyworker.postgres.keys import CancelKeys
from proxyworker.wire.postgres.startup import PROTOCOL_3_0, PROTOCOL_3_2


class Session:
    """Counts how often it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize(("protocol", "secret_bytes"), [(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32)])
def test_a_key_cancels_its_own_session(protocol: int, secret_bytes: int) -> None:
    keys = CancelKeys()
    alice, bob = Session(), Session()
    process_id, secret = keys.issue(alice, protocol)
    other_id, other_secret = keys.issue(bob, protocol)
    assert len(secret) == secret_bytes
    assert 0 < process_id < 2**31
    assert (process_id, secret) != (other_id, other_secret)
    assert keys.cancel(process_id, secret)
    assert (alice.cancelled, bob.cancelled) == (1, 0)


def test_no_other_key_cancels() -> None:
    keys = CancelKeys()
    alice, bob = Session(), Session()
    process_id, secret = keys.issue(alice, PROTOCOL_3_0)
    _, other_secret = keys.issue(bob, PROTOCOL_3_2)
    flipped = bytes((secret[0] ^ 1,)) + secret[1:]
    for wrong in (flipped, secret[:3], secret + b"\x00", b"", other_secret):
        assert not keys.cancel(process_id, wrong)
    assert not keys.cancel(0, secret)
    assert (alice.cancelled, bob.cancelled) == (0, 0)


def test_the_key_of_a_session_that_is_over_cancels_nothing() -> None:
    keys = CancelKeys()
    alice = Session()
    process_id, secret = keys.issue(alice, PROTOCOL_3_0)
    keys.forget(process_id)
    keys.forget(process_id)
    assert not keys.cancel(process_id, secret)
    assert alice.cancelled == 0


def test_a_process_id_that_is_taken_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([6, 6, 6, 7])
    monkeypatch.setattr("proxyworker.postgres.keys.secrets.randbelow", lambda _: next(drawn))
    keys = CancelKeys()
    assert [keys.issue(Session(), PROTOCOL_3_0)[0] for _ in range(2)] == [7, 8]
