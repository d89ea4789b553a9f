"""Messages from the client ("Message Formats", those marked F).

Parsers take a whole frame, header and all, as (buffer, start, end), and raise `MalformedMessage`. Texts stay bytes:
their encoding is the session's. Names are what the target tells apart, so two that are one to it are one here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from proxyworker.wire.postgres.errors import MalformedMessage
from proxyworker.wire.postgres.scan import HEADER_BYTES

QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BIND: Final = ord("B")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
CLOSE: Final = ord("C")
SYNC: Final = ord("S")
FLUSH: Final = ord("H")
FUNCTION_CALL: Final = ord("F")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
TERMINATE: Final = ord("X")
PASSWORD: Final = ord("p")

#: By so many bytes PostgreSQL tells the names of statements and portals apart (NAMEDATALEN - 1); what follows is as if
#: it weren't there.
MAX_NAME_BYTES: Final = 63
#: The protocol counts them by 16 bits.
MAX_PARAMETERS: Final = 65_535

TERMINATE_MESSAGE: Final = b"X\x00\x00\x00\x04"

#: Describe and Close name a statement or a portal.
STATEMENT: Final = ord("S")
PORTAL: Final = ord("P")

_UINT16 = struct.Struct("!H")
_INT32 = struct.Struct("!i")


class Parse(msgspec.Struct, frozen=True):
    """Make a prepared statement. The empty name is the unnamed statement. `types`: OIDs, four bytes each, 0 for any."""

    statement: bytes
    text: bytes
    types: bytes = b""


class Bind(msgspec.Struct, frozen=True):
    """Make a portal of a statement and values. `values`: the value or None for NULL, and whether it is binary."""

    portal: bytes
    statement: bytes
    values: tuple[tuple[bytes | None, bool], ...]


class Execute(msgspec.Struct, frozen=True):
    """Run a portal. `max_rows` 0: all."""

    portal: bytes
    max_rows: int


class Named(msgspec.Struct, frozen=True):
    """Describe or Close of a statement or a portal."""

    kind: int
    name: bytes


def parse_query(data: bytes, start: int, end: int) -> bytes:
    """The text of a Query."""
    if end - start < HEADER_BYTES + 1 or data[end - 1] != 0:
        raise MalformedMessage("Query: the text is not terminated")
    text = data[start + HEADER_BYTES : end - 1]
    if b"\x00" in text:
        raise MalformedMessage("Query: bytes after the text")
    return text


def parse_parse(data: bytes, start: int, end: int) -> Parse:
    """A Parse; of its parameter types only the count is checked."""
    name_end = _terminator(data, start + HEADER_BYTES, end, "Parse: the name")
    text_end = _terminator(data, name_end + 1, end, "Parse: the text")
    at = text_end + 1
    if at + 2 > end or at + 2 + 4 * _UINT16.unpack_from(data, at)[0] != end:
        raise MalformedMessage("Parse: the parameter types do not fill the message")
    return Parse(
        statement=_statement(data[start + HEADER_BYTES : name_end]),
        text=data[name_end + 1 : text_end],
        types=data[at + 2 : end],
    )


def parse_bind(data: bytes, start: int, end: int) -> Bind:
    """A Bind."""
    portal_end = _terminator(data, start + HEADER_BYTES, end, "Bind: the portal")
    statement_end = _terminator(data, portal_end + 1, end, "Bind: the statement")
    at, formats = _int16_list(data, statement_end + 1, end)
    if at + 2 > end:
        raise MalformedMessage("Bind: no parameter count")
    count = _UINT16.unpack_from(data, at)[0]
    at += 2
    if len(formats) not in (0, 1, count):
        raise MalformedMessage("Bind: neither none, one nor all parameters have a format")
    values: list[tuple[bytes | None, bool]] = []
    for index in range(count):
        if at + 4 > end:
            raise MalformedMessage("Bind: fewer parameters than announced")
        length = _INT32.unpack_from(data, at)[0]
        at += 4
        is_binary = bool(formats and formats[index if len(formats) > 1 else 0])
        if length == -1:
            values.append((None, is_binary))
            continue
        if length < 0 or at + length > end:
            raise MalformedMessage("Bind: a parameter that reaches beyond the message")
        values.append((data[at : at + length], is_binary))
        at += length
    at, _ = _int16_list(data, at, end)
    if at != end:
        raise MalformedMessage("Bind: bytes after the result formats")
    return Bind(
        portal=data[start + HEADER_BYTES : portal_end][:MAX_NAME_BYTES],
        statement=_statement(data[portal_end + 1 : statement_end]),
        values=tuple(values),
    )


def parse_execute(data: bytes, start: int, end: int) -> Execute:
    """An Execute."""
    portal_end = _terminator(data, start + HEADER_BYTES, end, "Execute: the portal")
    if portal_end + 5 != end:
        raise MalformedMessage("Execute: a wrong length")
    max_rows = _INT32.unpack_from(data, portal_end + 1)[0]
    return Execute(portal=data[start + HEADER_BYTES : portal_end][:MAX_NAME_BYTES], max_rows=max(max_rows, 0))


def parse_named(data: bytes, start: int, end: int) -> Named:
    """A Describe or a Close."""
    if end - start < HEADER_BYTES + 2 or data[start + HEADER_BYTES] not in (STATEMENT, PORTAL):
        raise MalformedMessage("Describe or Close: neither a statement nor a portal")
    name_end = _terminator(data, start + HEADER_BYTES + 1, end, "Describe or Close: the name")
    if name_end + 1 != end:
        raise MalformedMessage("Describe or Close: a wrong length")
    kind, name = data[start + HEADER_BYTES], data[start + HEADER_BYTES + 1 : name_end]
    return Named(kind=kind, name=_statement(name) if kind == STATEMENT else name[:MAX_NAME_BYTES])


def parse_password(frame: bytes) -> bytes:
    """The text of a PasswordMessage."""
    if len(frame) < HEADER_BYTES + 1 or frame[-1] != 0 or b"\x00" in frame[HEADER_BYTES:-1]:
        raise MalformedMessage("PasswordMessage: not one terminated text")
    return frame[HEADER_BYTES:-1]


def parse_sasl_initial(frame: bytes) -> tuple[bytes, bytes]:
    """Mechanism and first response of a SASLInitialResponse, which SCRAM's must have."""
    name_end = _terminator(frame, HEADER_BYTES, len(frame), "SASLInitialResponse: the mechanism")
    at = name_end + 1
    if at + 4 > len(frame) or _INT32.unpack_from(frame, at)[0] != len(frame) - at - 4:
        raise MalformedMessage("SASLInitialResponse: the response does not fill the message")
    return frame[HEADER_BYTES:name_end], frame[at + 4 :]


def parse_sasl_response(frame: bytes) -> bytes:
    """The data of a SASLResponse."""
    return frame[HEADER_BYTES:]


def parse_function_call(data: bytes, start: int, end: int) -> int:
    """The OID of the function that a FunctionCall calls."""
    if end - start < HEADER_BYTES + 4:
        raise MalformedMessage("FunctionCall: no function")
    return int.from_bytes(data[start + HEADER_BYTES : start + HEADER_BYTES + 4], "big")


def build_password(secret: bytes) -> bytes:
    """PasswordMessage for cleartext and md5."""
    return b"p" + (len(secret) + 5).to_bytes(4, "big") + secret + b"\x00"


def build_query(text: bytes) -> bytes:
    """Query."""
    return b"Q" + (len(text) + 5).to_bytes(4, "big") + text + b"\x00"


def build_unnamed(text: bytes, types: Sequence[int], values: Sequence[tuple[bytes | None, bool]]) -> bytes:
    """Parse, Bind, Execute and Sync of the unnamed statement. Types are OIDs, 0 for any; results come as text.

    Raises `ValueError` for more than the protocol has room for.
    """
    if len(values) > MAX_PARAMETERS or len(types) > MAX_PARAMETERS:
        raise ValueError("too many parameters")
    parse = b"\x00" + text + b"\x00" + struct.pack(f"!H{len(types)}I", len(types), *types)
    formats = struct.pack(f"!H{len(values)}H", len(values), *(int(is_binary) for _, is_binary in values))
    bound = b"".join(b"\xff\xff\xff\xff" if one is None else len(one).to_bytes(4, "big") + one for one, _ in values)
    bind = b"\x00\x00" + formats + _UINT16.pack(len(values)) + bound + b"\x00\x00"
    return b"".join(
        kind + (len(body) + 4).to_bytes(4, "big") + body
        for kind, body in ((b"P", parse), (b"B", bind), (b"E", b"\x00\x00\x00\x00\x00"), (b"S", b""))
    )


def build_sasl_initial(mechanism: str, response: bytes) -> bytes:
    """SASLInitialResponse."""
    body = mechanism.encode() + b"\x00" + len(response).to_bytes(4, "big") + response
    return b"p" + (len(body) + 4).to_bytes(4, "big") + body


def build_sasl_response(response: bytes) -> bytes:
    """SASLResponse."""
    return b"p" + (len(response) + 4).to_bytes(4, "big") + response


def _statement(name: bytes) -> bytes:
    """As the target tells statements apart. Beyond ASCII that hangs on its encoding and the session's."""
    kept = name[:MAX_NAME_BYTES]
    if not kept.isascii():
        raise MalformedMessage("the name of a prepared statement that is not ASCII")
    return kept


def _terminator(data: bytes, at: int, end: int, what: str) -> int:
    found = data.find(b"\x00", at, end)
    if found < 0:
        raise MalformedMessage(f"{what} is not terminated")
    return found


def _int16_list(data: bytes, at: int, end: int) -> tuple[int, tuple[int, ...]]:
    if at + 2 > end:
        raise MalformedMessage("Bind: no format count")
    count = _UINT16.unpack_from(data, at)[0]
    at += 2
    if at + 2 * count > end:
        raise MalformedMessage("Bind: fewer formats than announced")
    formats = struct.unpack_from(f"!{count}h", data, at)
    if any(code not in (0, 1) for code in formats):
        raise MalformedMessage("Bind: a format that is neither text nor binary")
    return at + 2 * count, formats
