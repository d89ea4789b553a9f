"""Takes connections, and bounds how many may wait to be let in.

A protocol gives one coroutine, which admits a connection or refuses it; until it returns, the connection holds one of
the places, and it has a deadline. What an admitted session does afterwards is the protocol's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxyworker.net.tasks import spawn

#: Connections between accept and admission. Each may hold some 100 KB and a TLS handshake's work.
MAX_WAITING: Final = 512
#: From accept to admission, for everything that the agent's side has to do.
ADMISSION_SECONDS: Final = 30.0
#: The kernel's queue in front of us.
BACKLOG: Final = 1_024
#: Pause after accept itself failed (no file descriptors), so as not to spin.
ACCEPT_RETRY_SECONDS: Final = 0.2

Admit = Callable[[socket.socket, str], Awaitable[None]]

_log = structlog.get_logger(__name__)


class Listener:
    """One listening socket. `admit` gets a non-blocking socket, which is its own from then on, and "host:port"."""

    def __init__(self, name: str, admit: Admit) -> None:
        self._name = name
        self._admit = admit
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        if self._socket is None:
            raise RuntimeError("not listening")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises `OSError` when the address can't be had."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Several processes of a worker share the port, and the kernel spreads the connections.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        self._task = spawn(f"listen {self._name}", self._accept(listening))

    async def close(self) -> None:
        """Take no more connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                _log.error("accept_failed", listener=self._name, error=error.strerror)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            if self._waiting >= MAX_WAITING:
                connection.close()
                _log.warning("refused", listener=self._name, client=address[0], reason="too many connections wait")
                continue
            self._waiting += 1
            spawn(f"admit {self._name}", self._guard(connection, f"{address[0]}:{address[1]}"))

    async def _guard(self, connection: socket.socket, address: str) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with asyncio.timeout(ADMISSION_SECONDS):
                await self._admit(connection, address)
        except TimeoutError:
            connection.close()
            _log.warning("refused", listener=self._name, client=address, reason="it took too long to log in")
        except OSError as error:
            connection.close()
            _log.warning("refused", listener=self._name, client=address, reason=error.strerror or type(error).__name__)
        except BaseException:
            connection.close()
            raise
        finally:
            self._waiting -= 1
