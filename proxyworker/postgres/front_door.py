"""What a client does before its startup message: ask for encryption, start TLS, or bring a cancel request.

    "SSL Session Encryption": SSLRequest, answered S, then TLS; or TLS at once, with ALPN "postgresql".
    "GSSAPI Session Encryption": GSSENCRequest, answered N.

No byte of ours is read past a request for encryption before the encryption is there (CVE-2021-23214).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from proxyworker.net.handshake import HandshakeProtocol, PeerGone
from proxyworker.wire.postgres.errors import MalformedStartup
from proxyworker.wire.postgres.startup import (
    STARTUP_HEADER_BYTES,
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    parse_startup,
    startup_length,
)

ALPN: Final = "postgresql"
#: First byte of a TLS record that holds a ClientHello (RFC 8446 section 5.1).
_TLS_HANDSHAKE: Final = 0x16
#: A client asks at most for GSS encryption and for TLS.
MAX_ENCRYPTION_REQUESTS: Final = 2


class NoTls(Exception):
    """The client sent its startup message without TLS."""


class Connection:
    """A client's socket, until it speaks TLS."""

    def __init__(self, raw: socket.socket, tls: ssl.SSLContext) -> None:
        self._raw = raw
        self._tls = tls
        self._loop = asyncio.get_running_loop()

    async def enter(self) -> tuple[HandshakeProtocol | None, StartupMessage | CancelRequest]:
        """The startup message and the encrypted connection that it came by; or a cancel request, however it came.

        Raises `MalformedStartup`, `NoTls`, `PeerGone`, `OSError` (with TLS errors).
        """
        for _ in range(MAX_ENCRYPTION_REQUESTS + 1):
            if await self._peek() == _TLS_HANDSHAKE:
                handshake = await self._start_tls()
                if handshake.transport.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
                    handshake.transport.abort()
                    raise MalformedStartup("TLS at once, without the ALPN name postgresql")
                return handshake, await self._startup(handshake)
            header = await self._receive(STARTUP_HEADER_BYTES)
            packet = parse_startup(header + await self._receive(startup_length(header) - STARTUP_HEADER_BYTES))
            if isinstance(packet, SslRequest):
                await self._loop.sock_sendall(self._raw, b"S")
                handshake = await self._start_tls()
                return handshake, await self._startup(handshake)
            if isinstance(packet, GssEncRequest):
                await self._loop.sock_sendall(self._raw, b"N")
            elif isinstance(packet, CancelRequest):
                return None, packet
            else:
                raise NoTls
        raise MalformedStartup("more requests for encryption than there are kinds")

    async def refuse(self, error: bytes) -> None:
        """Say why, in the clear, and close."""
        await self._loop.sock_sendall(self._raw, error)
        self._raw.close()

    def close(self) -> None:
        """Close without a word."""
        self._raw.close()

    async def _startup(self, handshake: HandshakeProtocol) -> StartupMessage | CancelRequest:
        try:
            header = await handshake.read_exactly(STARTUP_HEADER_BYTES)
            rest = await handshake.read_exactly(startup_length(header) - STARTUP_HEADER_BYTES)
            packet = parse_startup(header + rest)
            if isinstance(packet, SslRequest | GssEncRequest):
                raise MalformedStartup("a request for encryption inside TLS")
        except BaseException:
            handshake.transport.abort()
            raise
        return packet

    async def _start_tls(self) -> HandshakeProtocol:
        # uvloop returns its own TLS protocol in place of ours, so ours is made here.
        handshake = HandshakeProtocol()
        await self._loop.connect_accepted_socket(lambda: handshake, self._raw, ssl=self._tls)
        return handshake

    async def _peek(self) -> int:
        """The next byte, left where it is."""
        readable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._raw, lambda: None if readable.done() else readable.set_result(None))
        try:
            await readable
        finally:
            self._loop.remove_reader(self._raw)
        data = self._raw.recv(1, socket.MSG_PEEK)
        if not data:
            raise PeerGone
        return data[0]

    async def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            received = await self._loop.sock_recv(self._raw, size - len(data))
            if not received:
                raise PeerGone
            data += received
        return data
