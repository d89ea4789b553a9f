"""What a client says before it is in ("Message Flow: Start-up", "SSL Session Encryption", "Canceling Requests")."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from proxyworker.wire.postgres.errors import MalformedStartup

#: The server's own bound, MAX_STARTUP_PACKET_LENGTH in PostgreSQL's postmaster.
MAX_STARTUP_BYTES: Final = 10_000
#: Length and code: enough to know what the client wants.
STARTUP_HEADER_BYTES: Final = 8

PROTOCOL_3_0: Final = 0x0003_0000
PROTOCOL_3_2: Final = 0x0003_0002

_CANCEL_CODE: Final = 80877102
_SSL_CODE: Final = 80877103
_GSSENC_CODE: Final = 80877104
#: A cancel key has 4 bytes in protocol 3.0 and up to 256 in 3.2.
_MAX_CANCEL_KEY_BYTES: Final = 256
_MIN_CANCEL_KEY_BYTES: Final = 4

_HEADER = struct.Struct("!II")
_UINT32 = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client would like TLS. The answer is one byte, S or N."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client would like GSSAPI encryption. The answer is one byte; ours is N."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Stop what the session with this key is doing. There is no answer."""

    process_id: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """`parameters` holds all but protocol options ("_pq_.…"), whose names are in `protocol_options`."""

    protocol: int
    parameters: dict[str, str]
    protocol_options: tuple[str, ...]


StartupPacket = SslRequest | GssEncRequest | CancelRequest | StartupMessage


def startup_length(header: bytes) -> int:
    """The whole length of the packet that starts with these eight bytes.

    Raises `MalformedStartup` when it is none that PostgreSQL knows.
    """
    length, code = _HEADER.unpack_from(header)
    if code in (_SSL_CODE, _GSSENC_CODE):
        if length != STARTUP_HEADER_BYTES:
            raise MalformedStartup("an encryption request of a wrong length")
    elif code == _CANCEL_CODE:
        if not 8 + _MIN_CANCEL_KEY_BYTES <= length - 4 <= 8 + _MAX_CANCEL_KEY_BYTES:
            raise MalformedStartup("a cancel request of a wrong length")
    elif code >> 16 != 3:
        raise MalformedStartup("no PostgreSQL startup packet of protocol 3")
    elif not STARTUP_HEADER_BYTES < length <= MAX_STARTUP_BYTES:
        raise MalformedStartup(f"a startup packet over {MAX_STARTUP_BYTES} bytes or empty")
    return int(length)


def parse_startup(packet: bytes) -> StartupPacket:
    """Parse a whole packet, as long as `startup_length` said. Raises `MalformedStartup`."""
    _, code = _HEADER.unpack_from(packet)
    if code == _SSL_CODE:
        return SslRequest()
    if code == _GSSENC_CODE:
        return GssEncRequest()
    if code == _CANCEL_CODE:
        (process_id,) = _UINT32.unpack_from(packet, 8)
        return CancelRequest(process_id=process_id, secret=packet[12:])
    return _parse_parameters(code, packet[STARTUP_HEADER_BYTES:])


def _parse_parameters(protocol: int, body: bytes) -> StartupMessage:
    # Names and values, each NUL-terminated, and a NUL at the end.
    if not body.endswith(b"\x00\x00") and body != b"\x00":
        raise MalformedStartup("a startup packet that is not terminated")
    parts = body[:-2].split(b"\x00") if len(body) > 1 else []
    if len(parts) % 2:
        raise MalformedStartup("a startup parameter without a value")
    parameters: dict[str, str] = {}
    options: list[str] = []
    for name_bytes, value_bytes in zip(parts[::2], parts[1::2], strict=True):
        try:
            name, value = name_bytes.decode(), value_bytes.decode()
        except UnicodeDecodeError as error:
            raise MalformedStartup("a startup parameter that is not UTF-8") from error
        if not name:
            raise MalformedStartup("a startup parameter without a name")
        if name.startswith("_pq_."):
            options.append(name)
        elif name in parameters:
            raise MalformedStartup("a startup parameter given twice")
        else:
            parameters[name] = value
    return StartupMessage(protocol=protocol, parameters=parameters, protocol_options=tuple(options))


def build_ssl_request() -> bytes:
    """What we send to a target to ask for TLS."""
    return _HEADER.pack(STARTUP_HEADER_BYTES, _SSL_CODE)


def build_cancel_request(process_id: int, secret: bytes) -> bytes:
    """What we send to a target to cancel, with the key that it gave us."""
    return struct.pack("!III", 12 + len(secret), _CANCEL_CODE, process_id) + secret


def build_startup(parameters: dict[str, str]) -> bytes:
    """A startup message of protocol 3.0. Raises `ValueError` for a NUL in a name or a value, or over the bound."""
    body = b""
    for name, value in parameters.items():
        if "\x00" in name or "\x00" in value:
            raise ValueError("a NUL byte in a startup parameter")
        body += name.encode() + b"\x00" + value.encode() + b"\x00"
    packet = _HEADER.pack(len(body) + STARTUP_HEADER_BYTES + 1, PROTOCOL_3_0) + body + b"\x00"
    if len(packet) > MAX_STARTUP_BYTES:
        raise ValueError(f"startup parameters over {MAX_STARTUP_BYTES} bytes")
    return packet
