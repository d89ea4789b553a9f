"""PostgreSQL's protocol: what is well formed, with its value, and what is not.

The bodies are written out by the documentation's chapter "Message Formats", not by the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proxyworker.wire.postgres import backend, frontend, startup
from proxyworker.wire.postgres.backend import ServerError
from proxyworker.wire.postgres.frontend import Bind, Execute, Named, Parse
from proxyworker.wire.postgres.startup import CancelRequest, GssEncRequest, SslRequest, StartupMessage

Reader = Callable[[bytes], object]
Writer = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Vector:
    """`data` is read as `value` by `read`, where there is a reader, and written by `write`, where there is a writer."""

    data: bytes
    value: object
    read: Reader | None = None
    write: Writer | None = None


def frame(kind: str, body: bytes = b"") -> bytes:
    """A message."""
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def packet(code: int, body: bytes = b"") -> bytes:
    """What a client says first."""
    return struct.pack("!II", len(body) + 8, code) + body


def within(parse: Callable[[bytes, int, int], object]) -> Reader:
    """The parser, on a message that stands between others, which must not matter."""

    def read(data: bytes) -> object:
        return parse(b"\x00before" + data + b"\x00after\x00", 7, 7 + len(data))

    return read


query = within(frontend.parse_query)
parse = within(frontend.parse_parse)
bind = within(frontend.parse_bind)
execute = within(frontend.parse_execute)
named = within(frontend.parse_named)
function_call = within(frontend.parse_function_call)
error = within(backend.parse_error)
tag = within(backend.parse_command_tag)
columns = within(backend.parse_columns)
parameter_status = within(backend.parse_parameter_status)
backend_key = within(backend.parse_backend_key)

_COLUMN_REST = bytes(18)

FRONTEND: dict[str, Vector] = {
    "query": Vector(frame("Q", b"SELECT 1\x00"), b"SELECT 1", query),
    "empty query": Vector(frame("Q", b"\x00"), b"", query),
    "query in no encoding": Vector(frame("Q", b"\xff\xfe\x00"), b"\xff\xfe", query),
    "unnamed parse": Vector(frame("P", b"\x00SELECT $1\x00\x00\x00"), Parse(b"", b"SELECT $1"), parse),
    "parse with types": Vector(
        frame("P", b"s1\x00SELECT $1, $2\x00\x00\x02\x00\x00\x00\x17\x00\x00\x00\x00"),
        Parse(b"s1", b"SELECT $1, $2", b"\x00\x00\x00\x17\x00\x00\x00\x00"),
        parse,
    ),
    "bind of nothing": Vector(frame("B", b"\x00\x00\x00\x00\x00\x00\x00\x00"), Bind(b"", b"", ()), bind),
    "bind of text and NULL": Vector(
        frame("B", b"p\x00s\x00\x00\x00\x00\x02\x00\x00\x00\x02hi\xff\xff\xff\xff\x00\x00"),
        Bind(b"p", b"s", ((b"hi", False), (None, False))),
        bind,
    ),
    "bind with one format for all": Vector(
        frame("B", b"\x00\x00\x00\x01\x00\x01\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x01\x00\x01"),
        Bind(b"", b"", ((b"a", True), (b"", True))),
        bind,
    ),
    "bind with a format for each": Vector(
        frame("B", b"\x00\x00\x00\x02\x00\x00\x00\x01\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x01b\x00\x00"),
        Bind(b"", b"", ((b"a", False), (b"b", True))),
        bind,
    ),
    "execute all": Vector(frame("E", b"\x00\x00\x00\x00\x00"), Execute(b"", 0), execute),
    "execute some": Vector(frame("E", b"p\x00\x00\x00\x00\x64"), Execute(b"p", 100), execute),
    "execute less than none": Vector(frame("E", b"\x00\xff\xff\xff\xff"), Execute(b"", 0), execute),
    "describe statement": Vector(frame("D", b"Ss1\x00"), Named(frontend.STATEMENT, b"s1"), named),
    "close portal": Vector(frame("C", b"P\x00"), Named(frontend.PORTAL, b""), named),
    "function call": Vector(frame("F", struct.pack("!IHHH", 1598, 0, 0, 0)), 1598, function_call),
    "password": Vector(
        frame("p", b"ng_token\x00"), b"ng_token", frontend.parse_password, partial(frontend.build_password, b"ng_token")
    ),
    "sasl initial": Vector(
        frame("p", b"SCRAM-SHA-256\x00\x00\x00\x00\x03n,,"),
        (b"SCRAM-SHA-256", b"n,,"),
        frontend.parse_sasl_initial,
        write=partial(frontend.build_sasl_initial, "SCRAM-SHA-256", b"n,,"),
    ),
    "sasl response": Vector(frame("p", b"c=biws"), None, write=partial(frontend.build_sasl_response, b"c=biws")),
    "terminate": Vector(frame("X"), None, write=lambda: frontend.TERMINATE_MESSAGE),
}

BACKEND: dict[str, Vector] = {
    "error": Vector(
        frame("E", b"SERROR\x00VERROR\x00C42501\x00Mno\x00Dbecause\x00Hask\x00\x00"),
        ServerError("ERROR", "42501", "no"),
        error,
        partial(backend.build_error, severity="ERROR", code="42501", message="no", detail="because", hint="ask"),
    ),
    "error without detail": Vector(
        frame("E", b"SFATAL\x00VFATAL\x00C28P01\x00Mno\x00\x00"),
        ServerError("FATAL", "28P01", "no"),
        error,
        partial(backend.build_error, severity="FATAL", code="28P01", message="no"),
    ),
    "error with a translated severity": Vector(
        frame("E", b"SFEHLER\x00VERROR\x00C22012\x00MTeilung\x00\x00"), ServerError("ERROR", "22012", "Teilung"), error
    ),
    "error of before 9.6": Vector(
        frame("E", b"SERROR\x00C22012\x00Mno\x00\x00"), ServerError("ERROR", "22012", "no"), error
    ),
    "error without fields": Vector(frame("E", b"\x00"), ServerError("", "", ""), error),
    "error in no encoding": Vector(frame("E", b"M\xff\x00\x00"), ServerError("", "", "\\xff"), error),
    "command tag": Vector(frame("C", b"INSERT 0 5\x00"), "INSERT 0 5", tag),
    "no columns": Vector(frame("T", b"\x00\x00"), (), columns),
    "columns": Vector(
        frame("T", b"\x00\x02id\x00" + _COLUMN_REST + b"\x00" + _COLUMN_REST),
        ("id", ""),
        columns,
    ),
    "parameter status": Vector(
        frame("S", b"TimeZone\x00UTC\x00"),
        ("TimeZone", "UTC"),
        parameter_status,
    ),
    "key of 3.0": Vector(
        frame("K", b"\x00\x00\x00\x07abcd"), (7, b"abcd"), backend_key, partial(backend.build_backend_key, 7, b"abcd")
    ),
    "key of 3.2": Vector(
        frame("K", b"\x7f\xff\xff\xff" + b"k" * 32),
        (2**31 - 1, b"k" * 32),
        backend_key,
        partial(backend.build_backend_key, 2**31 - 1, b"k" * 32),
    ),
    "authentication ok": Vector(
        frame("R", b"\x00\x00\x00\x00"), (0, b""), backend.parse_authentication, lambda: backend.AUTH_OK
    ),
    "authentication by password": Vector(
        frame("R", b"\x00\x00\x00\x03"), (3, b""), backend.parse_authentication, lambda: backend.AUTH_CLEARTEXT
    ),
    "authentication by md5": Vector(
        frame("R", b"\x00\x00\x00\x05salt"), (backend.AUTH_CODE_MD5, b"salt"), backend.parse_authentication
    ),
    "sasl mechanisms": Vector(
        b"SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00",
        ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"),
        backend.parse_sasl_mechanisms,
    ),
    "sasl offer": Vector(
        frame("R", b"\x00\x00\x00\x0aSCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"),
        (backend.AUTH_CODE_SASL, b"SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"),
        backend.parse_authentication,
        partial(backend.build_sasl, ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")),
    ),
    "sasl continue": Vector(
        frame("R", b"\x00\x00\x00\x0br=,s=,i="),
        (backend.AUTH_CODE_SASL_CONTINUE, b"r=,s=,i="),
        backend.parse_authentication,
        partial(backend.build_sasl_continue, b"r=,s=,i="),
    ),
    "sasl final": Vector(
        frame("R", b"\x00\x00\x00\x0cv="),
        (backend.AUTH_CODE_SASL_FINAL, b"v="),
        backend.parse_authentication,
        partial(backend.build_sasl_final, b"v="),
    ),
    "ready": Vector(frame("Z", b"I"), None, write=partial(backend.build_ready, backend.IDLE)),
    "negotiate": Vector(
        frame("v", b"\x00\x03\x00\x02\x00\x00\x00\x02_pq_.a\x00_pq_.b\x00"),
        None,
        write=partial(backend.build_negotiate, startup.PROTOCOL_3_2, ("_pq_.a", "_pq_.b")),
    ),
}

STARTUP: dict[str, Vector] = {
    "ssl request": Vector(packet(80877103), SslRequest(), startup.parse_startup, startup.build_ssl_request),
    "gss request": Vector(packet(80877104), GssEncRequest(), startup.parse_startup),
    "cancel of 3.0": Vector(
        packet(80877102, b"\x00\x00\x00\x07abcd"),
        CancelRequest(7, b"abcd"),
        startup.parse_startup,
        partial(startup.build_cancel_request, 7, b"abcd"),
    ),
    "cancel of 3.2": Vector(
        packet(80877102, b"\x00\x00\x00\x07" + b"k" * 256),
        CancelRequest(7, b"k" * 256),
        startup.parse_startup,
        partial(startup.build_cancel_request, 7, b"k" * 256),
    ),
    "startup of 3.0": Vector(
        packet(0x0003_0000, b"user\x00agent\x00database\x00shop\x00\x00"),
        StartupMessage(0x0003_0000, {"user": "agent", "database": "shop"}, ()),
        startup.parse_startup,
        partial(startup.build_startup, {"user": "agent", "database": "shop"}),
    ),
    "startup of 3.2 with options": Vector(
        packet(0x0003_0002, b"user\x00agent\x00_pq_.x\x001\x00\x00"),
        StartupMessage(0x0003_0002, {"user": "agent"}, ("_pq_.x",)),
        startup.parse_startup,
    ),
    "startup with an empty value": Vector(
        packet(0x0003_0000, b"user\x00\x00\x00"), StartupMessage(0x0003_0000, {"user": ""}, ()), startup.parse_startup
    ),
    "startup without parameters": Vector(
        packet(0x0003_0000, b"\x00"),
        StartupMessage(0x0003_0000, {}, ()),
        startup.parse_startup,
        partial(startup.build_startup, {}),
    ),
}

#: Messages that are refused, with their reader.
MALFORMED: dict[str, tuple[bytes, Reader]] = {
    "query without end": (frame("Q", b"SELECT 1"), query),
    "query of nothing": (frame("Q"), query),
    "query with more behind": (frame("Q", b"SELECT 1\x00more\x00"), query),
    "parse without name": (frame("P", b"s1"), parse),
    "parse without text": (frame("P", b"s1\x00SELECT 1"), parse),
    "parse without count": (frame("P", b"\x00SELECT 1\x00\x00"), parse),
    "parse with too few types": (frame("P", b"\x00SELECT 1\x00\x00\x02\x00\x00\x00\x17"), parse),
    "parse with more behind": (frame("P", b"\x00SELECT 1\x00\x00\x00\x00"), parse),
    "bind without portal": (frame("B", b"p"), bind),
    "bind without statement": (frame("B", b"p\x00s"), bind),
    "bind without formats": (frame("B", b"\x00\x00\x00"), bind),
    "bind with too few formats": (frame("B", b"\x00\x00\x00\x02\x00\x00"), bind),
    "bind with an unknown format": (frame("B", b"\x00\x00\x00\x01\x00\x02\x00\x00\x00\x00"), bind),
    "bind without count": (frame("B", b"\x00\x00\x00\x00\x00"), bind),
    "bind with formats for others": (
        frame("B", b"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"),
        bind,
    ),
    "bind without values": (frame("B", b"\x00\x00\x00\x00\x00\x01"), bind),
    "bind of a value too long": (frame("B", b"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x09hi\x00\x00"), bind),
    "bind of a negative length": (frame("B", b"\x00\x00\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00"), bind),
    "bind without result formats": (frame("B", b"\x00\x00\x00\x00\x00\x00"), bind),
    "bind with more behind": (frame("B", b"\x00\x00\x00\x00\x00\x00\x00\x00more"), bind),
    "execute without portal": (frame("E", b"p"), execute),
    "execute without count": (frame("E", b"p\x00\x00\x00"), execute),
    "execute with more behind": (frame("E", b"\x00\x00\x00\x00\x00\x00"), execute),
    "describe of neither": (frame("D", b"Xs1\x00"), named),
    "describe of nothing": (frame("D"), named),
    "close without end": (frame("C", b"Ss1"), named),
    "close with more behind": (frame("C", b"Ss1\x00\x00"), named),
    "password without end": (frame("p", b"ng_token"), frontend.parse_password),
    "password of nothing": (frame("p"), frontend.parse_password),
    "password of two texts": (frame("p", b"ng\x00token\x00"), frontend.parse_password),
    "function call of nothing": (frame("F", b"\x00\x00"), function_call),
    "error without end": (frame("E", b"SERROR\x00"), error),
    "error with a field without end": (frame("E", b"SERROR"), error),
    "error of nothing": (frame("E"), error),
    "error with more behind": (frame("E", b"\x00\x00"), error),
    "tag without end": (frame("C", b"SELECT 1"), tag),
    "tag of nothing": (frame("C"), tag),
    "columns without count": (frame("T", b"\x00"), columns),
    "fewer columns than announced": (frame("T", b"\x00\x02id\x00" + _COLUMN_REST), columns),
    "a column that is cut": (frame("T", b"\x00\x01id\x00" + _COLUMN_REST[1:]), columns),
    "columns with more behind": (frame("T", b"\x00\x00\x00"), columns),
    "parameter status of one text": (frame("S", b"TimeZone\x00"), parameter_status),
    "parameter status without end": (frame("S", b"TimeZone\x00UTC"), parameter_status),
    "parameter status of three texts": (frame("S", b"TimeZone\x00UTC\x00more\x00"), parameter_status),
    "key that is too short": (frame("K", b"\x00\x00\x00\x07abc"), backend_key),
    "sasl initial without mechanism": (frame("p", b"SCRAM"), frontend.parse_sasl_initial),
    "sasl initial without response": (frame("p", b"SCRAM\x00\xff\xff\xff\xff"), frontend.parse_sasl_initial),
    "sasl initial that is too long": (frame("p", b"SCRAM\x00\x00\x00\x00\x01n,,"), frontend.parse_sasl_initial),
    "sasl initial that is too short": (frame("p", b"SCRAM\x00\x00\x00\x00\x09n,,"), frontend.parse_sasl_initial),
    "authentication of nothing": (frame("R", b"\x00\x00"), backend.parse_authentication),
}

#: First packets that are refused: by their header, or as a whole.
MALFORMED_STARTUP: dict[str, bytes] = {
    "protocol 2": packet(0x0002_0000, b"\x00"),
    "protocol 4": packet(0x0004_0000, b"\x00"),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "zeros": bytes(16),
    "ssl request that is too long": packet(80877103, b"\x00"),
    "gss request that is too long": packet(80877104, b"\x00"),
    "cancel with a short key": packet(80877102, b"\x00\x00\x00\x07abc"),
    "cancel with a long key": packet(80877102, b"\x00\x00\x00\x07" + b"k" * 257),
    "startup of nothing": packet(0x0003_0000),
    "startup over the bound": packet(0x0003_0000, b"user\x00" + b"a" * 10_000 + b"\x00\x00"),
    "startup without end": packet(0x0003_0000, b"user\x00agent\x00"),
    "startup with a name alone": packet(0x0003_0000, b"user\x00\x00"),
    "startup with a NUL too many": packet(0x0003_0000, b"\x00\x00"),
    "startup without a name": packet(0x0003_0000, b"\x00agent\x00\x00"),
    "startup that says it twice": packet(0x0003_0000, b"user\x00a\x00user\x00b\x00\x00"),
    "startup in no encoding": packet(0x0003_0000, b"user\x00\xff\x00\x00"),
}
