"""A target that notes every statement that reaches it, and answers each with one tag: just enough PostgreSQL."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SSL_REQUEST = 80877103
_READY = b"Z\x00\x00\x00\x05I"
_WELCOME = b"R\x00\x00\x00\x08\x00\x00\x00\x00" + b"K\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x02" + _READY
_DONE = b"C\x00\x00\x00\x0dSELECT 0\x00" + _READY


class NotingTarget:
    """`received`: the statements, in the order in which they came."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.port = 0
        self._reached: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def until_received(self, total: int) -> None:
        """Return when so many statements have come."""
        self._reached = (total, asyncio.Event())
        if len(self.received) < total:
            await self._reached[1].wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._session(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the worker was killed
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            startup = await reader.readexactly(length - 4)
            if struct.unpack_from(">I", startup)[0] != _SSL_REQUEST:
                break
            writer.write(b"N")
        writer.write(_WELCOME)
        while True:
            kind, length = struct.unpack(">cI", await reader.readexactly(5))
            body = await reader.readexactly(length - 4)
            if kind == b"X":
                return
            if kind != b"Q":
                raise AssertionError(f"message {kind!r}")
            self.received.append(body[:-1].decode())
            if len(self.received) >= self._reached[0]:
                self._reached[1].set()
            writer.write(_DONE)


@asynccontextmanager
async def running_target() -> AsyncIterator[NotingTarget]:
    """Serve on loopback."""
    target = NotingTarget()
    server = await asyncio.start_server(target._serve, "127.0.0.1", 0)
    target.port = server.sockets[0].getsockname()[1]
    async with server:
        yield target
