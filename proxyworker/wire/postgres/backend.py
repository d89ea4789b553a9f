"""Messages from the server ("Message Formats", those marked B): built for our client, parsed from our target.

Parsers take a whole frame, header and all, as (buffer, start, end), and raise `MalformedMessage`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxyworker.wire.postgres.errors import MalformedMessage
from proxyworker.wire.postgres.scan import HEADER_BYTES

#: The same few tags and row descriptions come again and again: parsed ones are kept, if they are short.
KEPT_MESSAGES: Final = 1_024
MAX_KEPT_BYTES: Final = 2_048

AUTHENTICATION: Final = ord("R")
BACKEND_KEY_DATA: Final = ord("K")
PARAMETER_STATUS: Final = ord("S")
READY_FOR_QUERY: Final = ord("Z")
ERROR_RESPONSE: Final = ord("E")
NOTICE_RESPONSE: Final = ord("N")
NOTIFICATION: Final = ord("A")
ROW_DESCRIPTION: Final = ord("T")
DATA_ROW: Final = ord("D")
NO_DATA: Final = ord("n")
PARAMETER_DESCRIPTION: Final = ord("t")
PARSE_COMPLETE: Final = ord("1")
BIND_COMPLETE: Final = ord("2")
CLOSE_COMPLETE: Final = ord("3")
COMMAND_COMPLETE: Final = ord("C")
EMPTY_QUERY: Final = ord("I")
PORTAL_SUSPENDED: Final = ord("s")
COPY_IN: Final = ord("G")
COPY_OUT: Final = ord("H")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
FUNCTION_RESULT: Final = ord("V")
NEGOTIATE_VERSION: Final = ord("v")

AUTH_OK: Final = b"R\x00\x00\x00\x08\x00\x00\x00\x00"
AUTH_CLEARTEXT: Final = b"R\x00\x00\x00\x08\x00\x00\x00\x03"

#: Digits of a row count: nothing has a quadrillion rows, and a sum of such counts still fits 64 bits.
MAX_ROW_DIGITS: Final = 15

#: Behind a column's name: table OID, attribute number, type OID, size, modifier, format.
_FIELD: Final = struct.Struct("!IhIhih")

#: Transaction states in ReadyForQuery.
IDLE: Final = ord("I")

# Kinds of Authentication…, by their code.
AUTH_CODE_OK: Final = 0
AUTH_CODE_CLEARTEXT: Final = 3
AUTH_CODE_MD5: Final = 5
AUTH_CODE_SASL: Final = 10
AUTH_CODE_SASL_CONTINUE: Final = 11
AUTH_CODE_SASL_FINAL: Final = 12


@dataclass(frozen=True, slots=True)
class ServerError:
    """The fields of an ErrorResponse that we look at ("Error and Notice Message Fields")."""

    severity: str
    code: str
    message: str


def build_error(*, severity: str, code: str, message: str, detail: str = "", hint: str = "") -> bytes:
    """An ErrorResponse. `code` is a SQLSTATE, `severity` ERROR or FATAL."""
    return b"E" + _fields([("S", severity), ("V", severity), ("C", code), ("M", message), ("D", detail), ("H", hint)])


def build_notice(*, code: str, message: str, hint: str = "") -> bytes:
    """A NoticeResponse. Clients show its message and may show its hint."""
    return b"N" + _fields([("S", "NOTICE"), ("V", "NOTICE"), ("C", code), ("M", message), ("H", hint)])


def _fields(fields: list[tuple[str, str]]) -> bytes:
    body = b"".join(f"{name}{_clean(text)}\x00".encode() for name, text in fields if text) + b"\x00"
    return (len(body) + 4).to_bytes(4, "big") + body


def build_ready(transaction_status: int) -> bytes:
    """A ReadyForQuery."""
    return b"Z\x00\x00\x00\x05" + bytes((transaction_status,))


def build_backend_key(process_id: int, secret: bytes) -> bytes:
    """A BackendKeyData."""
    return b"K" + (len(secret) + 8).to_bytes(4, "big") + process_id.to_bytes(4, "big") + secret


def build_sasl(mechanisms: Iterable[str]) -> bytes:
    """An AuthenticationSASL that offers these."""
    return _authentication(AUTH_CODE_SASL, b"".join(name.encode() + b"\x00" for name in mechanisms) + b"\x00")


def build_sasl_continue(data: bytes) -> bytes:
    """An AuthenticationSASLContinue."""
    return _authentication(AUTH_CODE_SASL_CONTINUE, data)


def build_sasl_final(data: bytes) -> bytes:
    """An AuthenticationSASLFinal."""
    return _authentication(AUTH_CODE_SASL_FINAL, data)


def build_negotiate(newest_protocol: int, unknown_options: Iterable[str]) -> bytes:
    """A NegotiateProtocolVersion: the newest version that we speak, and options that we don't know."""
    names = [_clean(name).encode() + b"\x00" for name in unknown_options]
    body = newest_protocol.to_bytes(4, "big") + len(names).to_bytes(4, "big") + b"".join(names)
    return b"v" + (len(body) + 4).to_bytes(4, "big") + body


def parse_error(data: bytes, start: int, end: int) -> ServerError:
    """An ErrorResponse or a NoticeResponse. Fields that are missing are empty."""
    fields: dict[int, bytes] = {}
    at = start + HEADER_BYTES
    while at < end and data[at] != 0:
        stop = data.find(b"\x00", at + 1, end)
        if stop < 0:
            raise MalformedMessage("ErrorResponse: a field is not terminated")
        fields[data[at]] = data[at + 1 : stop]
        at = stop + 1
    if at != end - 1:
        raise MalformedMessage("ErrorResponse: not terminated")
    return ServerError(
        severity=_text(fields.get(ord("V")) or fields.get(ord("S"), b"")),
        code=_text(fields.get(ord("C"), b"")),
        message=_text(fields.get(ord("M"), b"")),
    )


def without_detail(data: bytes, start: int, end: int) -> bytes | None:
    """An ErrorResponse or a NoticeResponse without detail and context; None: it has neither."""
    fields = data[start + HEADER_BYTES : end - 1].split(b"\x00")
    kept = [field for field in fields if field[:1] not in (b"D", b"W")]
    if len(kept) == len(fields):
        return None
    body = b"\x00".join(kept) + b"\x00"
    return data[start : start + 1] + (len(body) + 4).to_bytes(4, "big") + body


def without_message(data: bytes, start: int, end: int) -> bytes:
    """An ErrorResponse or a NoticeResponse that tells its kind alone: severity, SQLSTATE and position."""
    told = parse_error(data, start, end)
    fields = data[start + HEADER_BYTES : end - 1].split(b"\x00")
    kept = [field for field in fields if field[:1] in (b"S", b"V", b"C", b"P")]
    kept.append(f"MNarrowgate: what the target says of {told.code} may quote values that are counted".encode())
    kept.append(b"HThe SQLSTATE tells what is wrong. Ask without the columns that a limit of distinct values counts.")
    body = b"\x00".join(kept) + b"\x00\x00"
    return data[start : start + 1] + (len(body) + 4).to_bytes(4, "big") + body


def parse_command_tag(data: bytes, start: int, end: int) -> str:
    """The tag of a CommandComplete, such as "INSERT 0 5"."""
    frame = data[start:end]
    return _kept_tag(frame) if len(frame) <= MAX_KEPT_BYTES else _parse_tag(frame)


def parse_columns(data: bytes, start: int, end: int) -> tuple[str, ...]:
    """The column names of a RowDescription."""
    frame = data[start:end]
    return _kept_columns(frame) if len(frame) <= MAX_KEPT_BYTES else _parse_columns(frame)


@dataclass(frozen=True, slots=True)
class Field:
    """A column of an answer: the table and attribute that it is of (0 for none), the OID of its type, its format."""

    table: int
    attribute: int
    type: int
    format: int


def parse_fields(frame: bytes) -> tuple[Field, ...]:
    """The columns of a RowDescription."""
    _parse_columns(frame)  # what is no RowDescription ends here
    at = HEADER_BYTES + 2
    fields: list[Field] = []
    while at < len(frame):
        at = frame.index(b"\x00", at) + 1
        table, attribute, kind, _, _, form = _FIELD.unpack_from(frame, at)
        fields.append(Field(table, attribute, kind, form))
        at += _FIELD.size
    return tuple(fields)


def parse_row(frame: bytes) -> list[bytes | None]:
    """The values of a DataRow, None for NULL."""
    end = len(frame)
    if end < HEADER_BYTES + 2:
        raise MalformedMessage("DataRow: no column count")
    count = int.from_bytes(frame[HEADER_BYTES : HEADER_BYTES + 2], "big")
    at = HEADER_BYTES + 2
    values: list[bytes | None] = []
    for _ in range(count):
        length = int.from_bytes(frame[at : at + 4], "big", signed=True)
        at += 4
        if length < -1 or at + max(length, 0) > end:
            raise MalformedMessage("DataRow: a value that reaches beyond the message")
        values.append(None if length < 0 else frame[at : at + length])
        at += max(length, 0)
    if at != end:
        raise MalformedMessage("DataRow: bytes after the values")
    return values


def _parse_tag(frame: bytes) -> str:
    if len(frame) < HEADER_BYTES + 1 or frame[-1] != 0:
        raise MalformedMessage("CommandComplete: the tag is not terminated")
    return _text(frame[HEADER_BYTES:-1])


def _parse_columns(frame: bytes) -> tuple[str, ...]:
    end = len(frame)
    at = HEADER_BYTES
    if at + 2 > end:
        raise MalformedMessage("RowDescription: no column count")
    count = int.from_bytes(frame[at : at + 2], "big")
    at += 2
    names: list[str] = []
    for _ in range(count):
        stop = frame.find(b"\x00", at)
        if stop < 0 or stop + 19 > end:
            raise MalformedMessage("RowDescription: a column that reaches beyond the message")
        names.append(_text(frame[at:stop]))
        # Behind the name: table OID, attribute number, type OID, size, modifier, format: 18 bytes.
        at = stop + 19
    if at != end:
        raise MalformedMessage("RowDescription: bytes after the columns")
    return tuple(names)


_kept_tag = lru_cache(maxsize=KEPT_MESSAGES)(_parse_tag)
_kept_columns = lru_cache(maxsize=KEPT_MESSAGES)(_parse_columns)


def parse_parameter_status(data: bytes, start: int, end: int) -> tuple[str, str]:
    """Name and value of a ParameterStatus."""
    parts = data[start + HEADER_BYTES : end].split(b"\x00")
    if len(parts) != 3 or parts[2]:
        raise MalformedMessage("ParameterStatus: not a name and a value")
    return _text(parts[0]), _text(parts[1])


def parse_backend_key(data: bytes, start: int, end: int) -> tuple[int, bytes]:
    """Process id and secret of a BackendKeyData."""
    if end - start < HEADER_BYTES + 8:
        raise MalformedMessage("BackendKeyData: too short")
    return int.from_bytes(data[start + 5 : start + 9], "big"), data[start + 9 : end]


def parse_authentication(frame: bytes) -> tuple[int, bytes]:
    """Code and body of an Authentication… message."""
    if len(frame) < HEADER_BYTES + 4:
        raise MalformedMessage("Authentication: too short")
    return int.from_bytes(frame[5:9], "big"), frame[9:]


def parse_sasl_mechanisms(body: bytes) -> tuple[str, ...]:
    """The mechanisms that an AuthenticationSASL offers."""
    return tuple(_text(name) for name in body.split(b"\x00") if name)


@lru_cache(maxsize=KEPT_MESSAGES)
def rows_of_tag(tag: str) -> int:
    """The row count at the end of a command tag, 0 where it has none that a server could mean."""
    last = tag.rpartition(" ")[2]
    return int(last) if len(last) <= MAX_ROW_DIGITS and last.isascii() and last.isdigit() else 0


def _authentication(code: int, body: bytes) -> bytes:
    return b"R" + (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def _clean(text: str) -> str:
    return text.replace("\x00", "")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
