"""A PostgreSQL client of one socket, for what libraries hide: the bytes as they come, and not reading them at all."""

from __future__ import annotations

import hashlib
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxyworker.wire.postgres.backend import build_ready
from proxyworker.wire.postgres.frontend import build_password
from proxyworker.wire.postgres.startup import build_ssl_request, build_startup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.demo import Demo

#: A chunk of an answer is never so long under way; the whole test has a bound beside.
PATIENCE_SECONDS = 120.0
RECEIVE_BYTES = 256 * 1024
#: ReadyForQuery outside of a transaction ends every answer that these tests ask for.
READY = build_ready(ord("I"))


class Client:
    """One session. `received_bytes` and `digest` are of everything since the last `ask`."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._tail = b""
        self.received_bytes = 0
        self.digest = hashlib.sha256()

    def ask(self, statement: str) -> None:
        """Send a simple query."""
        body = statement.encode() + b"\0"
        self._tail = b""
        self.received_bytes = 0
        self.digest = hashlib.sha256()
        self._tls.sendall(b"Q" + (len(body) + 4).to_bytes(4, "big") + body)

    def read(self, *, until_bytes: int | None = None) -> None:
        """Read on, to the end of the answer, or until so many bytes have come."""
        while self._tail != READY and (until_bytes is None or self.received_bytes < until_bytes):
            data = self._tls.recv(RECEIVE_BYTES)
            assert data, "the gate closed the connection"
            self.received_bytes += len(data)
            self.digest.update(data)
            self._tail = (self._tail + data)[-len(READY) :]


@contextmanager
def raw_client(demo: Demo) -> Iterator[Client]:
    """The support agent's session on the shop, ready for queries."""
    gate, agent = demo.told["gate"], demo.told["agents"]["support-agent"]
    with socket.create_connection(("127.0.0.1", gate["port"]), timeout=PATIENCE_SECONDS) as plain:
        plain.sendall(build_ssl_request())
        assert plain.recv(1) == b"S"
        context = ssl.create_default_context(cafile=gate["ca_file"])
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(build_startup({"user": "support-agent", "database": gate["database"]}))
            tls.sendall(build_password(agent["token"].encode()))
            client = Client(tls)
            client.read()
            yield client
