"""Messages of PostgreSQL's protocol, built for scripts: what an agent asks, and what a target answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.vectors.postgres import frame

# ------------------------------------------------------------ an agent

SYNC = frame("S")
FLUSH = frame("H")
TERMINATE = frame("X")


def query(text: str) -> bytes:
    return frame("Q", text.encode() + b"\x00")


def parse(text: str, name: str = "") -> bytes:
    return frame("P", name.encode() + b"\x00" + text.encode() + b"\x00\x00\x00")


def bind(statement: str = "", portal: str = "", values: Sequence[bytes | None] = ()) -> bytes:
    body = portal.encode() + b"\x00" + statement.encode() + b"\x00\x00\x00" + struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return frame("B", body + b"\x00\x00")


def describe_statement(name: str = "") -> bytes:
    return frame("D", b"S" + name.encode() + b"\x00")


def describe_portal(name: str = "") -> bytes:
    return frame("D", b"P" + name.encode() + b"\x00")


def execute(portal: str = "", rows: int = 0) -> bytes:
    return frame("E", portal.encode() + b"\x00" + struct.pack("!i", rows))


def close_statement(name: str) -> bytes:
    return frame("C", b"S" + name.encode() + b"\x00")


def close_portal(name: str) -> bytes:
    return frame("C", b"P" + name.encode() + b"\x00")


def function_call(oid: int) -> bytes:
    return frame("F", struct.pack("!IHHH", oid, 0, 0, 0))


# ------------------------------------------------------------ a target

PARSED = frame("1")
BOUND = frame("2")
CLOSED = frame("3")
NO_DATA = frame("n")
EMPTY = frame("I")
SUSPENDED = frame("s")
PARAMETERS = frame("t", b"\x00\x00")
COPY_IN = frame("G", b"\x00\x00\x00")
COPY_OUT = frame("H", b"\x00\x00\x00")
COPY_DATA = frame("d", b"1\n")
COPY_DONE = frame("c")
FUNCTION_RESULT = frame("V", b"\xff\xff\xff\xff")
ROW = frame("D", b"\x00\x01\x00\x00\x00\x011")
NOTICE = frame("N", b"SNOTICE\x00VNOTICE\x00C00000\x00Mmind\x00\x00")
READY = frame("Z", b"I")
READY_IN_TRANSACTION = frame("Z", b"T")
READY_FAILED = frame("Z", b"E")


def columns(*names: str) -> bytes:
    return frame("T", struct.pack("!H", len(names)) + b"".join(name.encode() + b"\x00" + bytes(18) for name in names))


def tag(text: str) -> bytes:
    return frame("C", text.encode() + b"\x00")


def error(code: str, message: str = "no", severity: str = "ERROR") -> bytes:
    fields = f"S{severity}\x00V{severity}\x00C{code}\x00M{message}\x00" if code else f"S{severity}\x00M{message}\x00"
    return frame("E", fields.encode() + b"\x00")
