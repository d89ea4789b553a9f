"""Messages between the processes of a worker."""

from __future__ import annotations

import asyncio

from proxyworker.net.siblings import Siblings, Sockets

ANSWER_SECONDS = 20


async def test_messages_wait_whole_and_in_order_for_a_process_that_starts_anew() -> None:
    sockets = Sockets.make(2)
    outboxes = [outbox.dup() for outbox in sockets.outboxes]
    first = Siblings(0, inbox=sockets.inboxes[0].dup(), outboxes=outboxes)
    messages = [b"one", b"two" * 100, b"three"]
    for message in messages:
        first.send(1, message)
    taken: asyncio.Queue[bytes] = asyncio.Queue()
    second = Siblings(1, inbox=sockets.inboxes[1].dup(), outboxes=[outbox.dup() for outbox in sockets.outboxes])
    second.on_message = taken.put_nowait
    second.listen()
    async with asyncio.timeout(ANSWER_SECONDS):
        assert [await taken.get() for _ in messages] == messages
    first.close()
    second.close()
    sockets.close()


async def test_what_nobody_takes_is_dropped_and_the_sender_goes_on() -> None:
    sockets = Sockets.make(2)
    first = Siblings(0, inbox=sockets.inboxes[0].dup(), outboxes=[outbox.dup() for outbox in sockets.outboxes])
    for _ in range(10_000):
        first.send(1, bytes(100))
    waiting = 0
    sockets.inboxes[1].setblocking(False)
    try:
        while sockets.inboxes[1].recv(1024):
            waiting += 1
    except BlockingIOError:
        pass
    assert 10 < waiting < 10_000
    first.close()
    sockets.close()
