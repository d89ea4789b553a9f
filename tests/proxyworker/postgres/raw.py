"""A client that speaks PostgreSQL's protocol message by message, as no driver would."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from types import TracebackType
from typing import Final, Self

from proxyworker.wire.postgres import startup
from tests.proxyworker.postgres.gate import PATIENCE_SECONDS, TOKEN, RunningGate
from tests.vectors.messages import SYNC
from tests.vectors.postgres import frame

READY: Final = ord("Z")


class RawClient:
    """Signed in. `received` is every byte that came; `greeting` what came before the first ReadyForQuery."""

    def __init__(self, gate: RunningGate, **parameters: str) -> None:
        raw = socket.create_connection(("127.0.0.1", gate.port), timeout=PATIENCE_SECONDS)
        raw.sendall(startup.build_ssl_request())
        assert raw.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(gate.ca_file))
        self._socket = context.wrap_socket(raw, server_hostname="localhost")
        self.received = b""
        self._looked_at = 0
        self.send(startup.build_startup({"user": "agent", "database": gate.control.endpoint.name, **parameters}))
        assert self._message()[0] == ord("R")
        self.send(frame("p", TOKEN.encode() + b"\x00"))
        self.greeting = self.until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, *messages: bytes) -> None:
        """In one go."""
        self._socket.sendall(b"".join(messages))

    def ask(self, *messages: bytes) -> list[tuple[int, bytes]]:
        """Send, and return the messages up to ReadyForQuery, without it."""
        self.send(*messages)
        return self.until_ready()

    def ask_extended(self, *messages: bytes) -> list[tuple[int, bytes]]:
        """Send with a Sync behind it, and return the messages up to ReadyForQuery, without it."""
        return self.ask(*messages, SYNC)

    def until_ready(self) -> list[tuple[int, bytes]]:
        """The messages up to ReadyForQuery, or up to the end of the connection."""
        found: list[tuple[int, bytes]] = []
        while True:
            kind, body = self._message()
            if kind in (READY, 0):
                return found
            found.append((kind, body))

    def until(self, kind: int) -> None:
        """Read on to a message of this kind."""
        while (found := self._message()[0]) != kind:
            assert found

    def peek(self) -> bytes:
        """What has come and was not looked at."""
        self._socket.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            self.received += self._socket.recv(65_536)
        self._socket.settimeout(PATIENCE_SECONDS)
        return self.received[self._looked_at :]

    def _message(self) -> tuple[int, bytes]:
        header = self._exactly(5)
        if not header:
            return 0, b""
        (length,) = struct.unpack_from("!I", header, 1)
        return header[0], self._exactly(length - 4)

    def _exactly(self, size: int) -> bytes:
        while len(self.received) - self._looked_at < size:
            data = self._socket.recv(65_536)
            if not data:
                return b""
            self.received += data
        self._looked_at += size
        return self.received[self._looked_at - size : self._looked_at]


def rows(messages: list[tuple[int, bytes]]) -> list[bytes]:
    """The bodies of the rows."""
    return [body for kind, body in messages if kind == ord("D")]


def codes(messages: list[tuple[int, bytes]]) -> list[str]:
    """The SQLSTATEs of the errors."""
    return [
        field[1:].decode()
        for kind, body in messages
        if kind == ord("E")
        for field in body.split(b"\x00")
        if field[:1] == b"C"
    ]
