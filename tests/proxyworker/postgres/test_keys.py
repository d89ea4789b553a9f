"""The cancel keys that agents hold."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxyworker.net.siblings import Siblings, Sockets
from proxyworker.postgres.keys import CancelKeys
from proxyworker.wire.postgres.startup import PROTOCOL_3_0, PROTOCOL_3_2

CLIENT = "127.0.0.1:50000"


class Session:
    """Counts how often it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.was_cancelled = asyncio.Event()

    def cancel(self) -> None:
        self.cancelled += 1
        self.was_cancelled.set()


@pytest.mark.parametrize(("protocol", "secret_bytes"), [(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32)])
def test_a_key_cancels_its_own_session(protocol: int, secret_bytes: int) -> None:
    keys = CancelKeys(Siblings())
    alice, bob = Session(), Session()
    process_id, secret = keys.issue(alice, protocol)
    other_id, other_secret = keys.issue(bob, protocol)
    assert len(secret) == secret_bytes
    assert 0 < process_id < 2**31
    assert (process_id, secret) != (other_id, other_secret)
    keys.cancel(process_id, secret, client=CLIENT)
    assert (alice.cancelled, bob.cancelled) == (1, 0)


def test_no_other_key_cancels() -> None:
    keys = CancelKeys(Siblings())
    alice, bob = Session(), Session()
    process_id, secret = keys.issue(alice, PROTOCOL_3_0)
    _, other_secret = keys.issue(bob, PROTOCOL_3_2)
    flipped = bytes((secret[0] ^ 1,)) + secret[1:]
    for wrong in (flipped, secret[:3], secret + b"\x00", b"", other_secret, bytes(200)):
        keys.cancel(process_id, wrong, client=CLIENT)
    keys.cancel(0, secret, client=CLIENT)
    keys.cancel(-(2**31), secret, client=CLIENT)
    assert (alice.cancelled, bob.cancelled) == (0, 0)


def test_the_key_of_a_session_that_is_over_cancels_nothing() -> None:
    keys = CancelKeys(Siblings())
    alice = Session()
    process_id, secret = keys.issue(alice, PROTOCOL_3_0)
    keys.forget(process_id)
    keys.forget(process_id)
    keys.cancel(process_id, secret, client=CLIENT)
    assert alice.cancelled == 0


def test_a_process_id_that_is_taken_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([6, 6, 6, 7])
    monkeypatch.setattr("proxyworker.postgres.keys.secrets.randbelow", lambda _: next(drawn))
    keys = CancelKeys(Siblings())
    assert [keys.issue(Session(), PROTOCOL_3_0)[0] for _ in range(2)] == [7, 8]


def family(count: int) -> tuple[Sockets, list[Siblings]]:
    """So many processes, all of them here."""
    sockets = Sockets.make(count)
    outboxes = [[outbox.dup() for outbox in sockets.outboxes] for _ in range(count)]
    return sockets, [
        Siblings(number, inbox=sockets.inboxes[number].dup(), outboxes=outboxes[number]) for number in range(count)
    ]


@pytest.mark.parametrize("count", [2, 3, 64])
def test_of_several_processes_each_gives_process_ids_of_its_own(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawn in (lambda _bound: 0, lambda bound: bound - 1):
        monkeypatch.setattr("proxyworker.postgres.keys.secrets.randbelow", drawn)
        everybody = [Siblings(number, outboxes=[socket.socket()] * count) for number in range(count)]
        given = [CancelKeys(siblings).issue(Session(), PROTOCOL_3_0)[0] for siblings in everybody]
        assert len(set(given)) == count
        assert all(0 < process_id < 2**31 for process_id in given)
        for siblings in everybody:
            siblings._outboxes[0].close()


async def test_a_request_that_comes_to_a_sibling_is_passed_on_to_whose_key_it_is() -> None:
    sockets, everybody = family(3)
    keys = [CancelKeys(siblings) for siblings in everybody]
    for siblings in everybody:
        siblings.listen()
    for own in keys:
        session = Session()
        process_id, secret = own.issue(session, PROTOCOL_3_2)
        for reached in keys:
            session.was_cancelled.clear()
            reached.cancel(process_id, bytes(32), client=CLIENT)
            reached.cancel(process_id, secret, client=CLIENT)
            async with asyncio.timeout(20):
                await session.was_cancelled.wait()
        assert session.cancelled == 3
    for siblings in everybody:
        siblings.close()
    sockets.close()
