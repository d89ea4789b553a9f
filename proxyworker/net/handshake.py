"""Reading a peer's first messages in order, before its bytes flow through the stages."""

from __future__ import annotations

import asyncio
from typing import Final, cast

#: What a peer may send ahead of what it was asked for; then it is not read until asked again.
READ_AHEAD_BYTES: Final = 64 * 1024


class PeerGone(Exception):
    """The peer closed the connection, or it broke."""


class HandshakeProtocol(asyncio.Protocol):
    """A connection read message by message. `hand_over` gives it, with what was read ahead, to the next protocol."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        # uvloop's TLS transport is none of asyncio's classes, though it does all that asyncio.Transport does.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._buffer += data
        if len(self._buffer) > max(READ_AHEAD_BYTES, self._wanted):
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """asyncio's: close the transport."""
        self._is_over = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """asyncio's."""
        self._is_over = True
        self._wake()

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises `PeerGone`. The caller bounds the size and the time."""
        self._wanted = size
        while len(self._buffer) < size:
            if self._is_over:
                raise PeerGone
            if not self.transport.is_reading():
                self.transport.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def write(self, data: bytes) -> None:
        """Send; what a handshake sends is small."""
        self.transport.write(data)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the connection to this protocol, whose `connection_made` has been called. Raises `PeerGone`."""
        if self._is_over:
            raise PeerGone
        self.transport.set_protocol(protocol)
        if self._buffer:
            protocol.data_received(bytes(self._buffer))
            self._buffer.clear()
        if not self.transport.is_reading():
            self.transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
