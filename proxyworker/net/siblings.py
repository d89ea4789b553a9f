"""The other processes of the same worker, and short messages to them.

The sockets are made by the parent of all and inherited (`Sockets`), so nobody else can reach them: they have no name.
What is not taken in time is dropped; nothing that has to arrive is sent this way.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

#: A message is far shorter; some two hundred wait in a socket's buffer for a process that is busy or starts anew.
MAX_MESSAGE_BYTES: Final = 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sockets:
    """One for each process, by its number, to read from and to write to. Packets, so that many may write to one."""

    inboxes: Sequence[socket.socket]
    outboxes: Sequence[socket.socket]

    @classmethod
    def make(cls, count: int) -> Sockets:
        """For so many processes."""
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        return cls([inbox for inbox, _ in pairs], [outbox for _, outbox in pairs])

    def close(self) -> None:
        """Let go of all."""
        for one in (*self.inboxes, *self.outboxes):
            one.close()


class Siblings:
    """The processes as number `number` of `count` sees them. Without sockets it is alone."""

    def __init__(
        self, number: int = 0, *, inbox: socket.socket | None = None, outboxes: Sequence[socket.socket] = ()
    ) -> None:
        #: Called with each message to this process.
        self.on_message: Callable[[bytes], None] = lambda _message: None
        self.number = number
        self.count = max(len(outboxes), 1)
        self._inbox = inbox
        self._outboxes = outboxes

    def listen(self) -> None:
        """Take messages from now on, on the running loop."""
        if self._inbox is not None:
            self._inbox.setblocking(False)
            asyncio.get_running_loop().add_reader(self._inbox, self._take)

    def send(self, number: int, message: bytes) -> None:
        """Tell that process; never waits, never raises for a process that isn't there."""
        try:
            self._outboxes[number].send(message, socket.MSG_DONTWAIT)
        except OSError as error:
            _log.warning("sibling_not_told", sibling=number, error=error.strerror)

    def close(self) -> None:
        """Take no more messages."""
        if self._inbox is not None:
            asyncio.get_running_loop().remove_reader(self._inbox)
            self._inbox.close()
        for outbox in self._outboxes:
            outbox.close()

    def _take(self) -> None:
        if self._inbox is None:
            return
        try:
            message = self._inbox.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        if not message:  # the parent has gone, and so will this process
            asyncio.get_running_loop().remove_reader(self._inbox)
            return
        self.on_message(message)
