"""Clients that mean harm or are broken: refused within a bound, one log line each, other sessions untouched."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
from collections.abc import Iterator

import psycopg
import pytest
import structlog
from structlog.typing import EventDict

from proxyworker.contract import OutcomeStatus, SessionLimits
from proxyworker.gate import listener
from proxyworker.postgres import keys, login
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane

SSL_REQUEST = struct.pack("!II", 8, 80877103)


@pytest.fixture
def witness(gate: RunningGate) -> Iterator[psycopg.Connection]:
    """Another agent's session, which must not notice anything."""
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        yield connection
        assert connection.execute("SELECT 'untouched'").fetchone() == ("untouched",)


@contextlib.contextmanager
def captured() -> Iterator[list[EventDict]]:
    """What the ways in log meanwhile. Their loggers may be in use already, and then keep their configuration."""
    capture = structlog.testing.LogCapture()
    with pytest.MonkeyPatch.context() as patch:
        for module in (login, listener, keys):
            patch.setattr(module, "_log", structlog.wrap_logger(None, processors=[capture]))
        yield capture.entries


def refusals(logs: list[EventDict]) -> list[str]:
    return [str(entry["reason"]) for entry in logs if entry["event"] == "refused"]


def until_closed(connection: socket.socket) -> bytes:
    """What the gate still says, until it hangs up; a reset counts as hanging up."""
    connection.settimeout(20)
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            said += data
    return said


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n",
        b"\x00" * 8,
        b"\xff" * 64,
        struct.pack("!II", 10_001, 0x0003_0000),
        struct.pack("!II", 0x7FFF_FFFF, 0x0003_0000),
        struct.pack("!II", 16, 0x0002_0000) + b"\x00" * 8,
        struct.pack("!II", 9, 80877103) + b"x",
        struct.pack("!II", 14, 80877102) + b"\x00" * 6,
        SSL_REQUEST[:5],
        random.Random(7).randbytes(4096),
    ],
)
def test_garbage_in_place_of_a_startup_packet_is_refused(
    gate: RunningGate, witness: psycopg.Connection, garbage: bytes
) -> None:
    with captured() as logs:
        with socket.create_connection(("127.0.0.1", gate.port)) as raw:
            raw.sendall(garbage)
            with contextlib.suppress(OSError):  # it may have hung up already
                raw.shutdown(socket.SHUT_WR)
            until_closed(raw)
        gate.wait_for(lambda: len(refusals(logs)) >= 1)
    assert len(refusals(logs)) == 1


def test_a_million_idle_bytes_are_refused(gate: RunningGate, witness: psycopg.Connection) -> None:
    with captured() as logs:
        with socket.create_connection(("127.0.0.1", gate.port)) as raw:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                raw.sendall(b"\x00" * 1_000_000)
            until_closed(raw)
        gate.wait_for(lambda: len(refusals(logs)) >= 1)
    assert len(refusals(logs)) == 1


def tls_to(gate: RunningGate) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", gate.port))
    raw.sendall(SSL_REQUEST)
    assert raw.recv(1) == b"S"
    return ssl.create_default_context(cafile=str(gate.ca_file)).wrap_socket(raw, server_hostname="localhost")


@pytest.mark.parametrize(
    "startup",
    [
        b"\x00" * 16,
        SSL_REQUEST,
        struct.pack("!II", 10_001, 0x0003_0000),
        struct.pack("!II", 14, 0x0003_0000) + b"user\x00\x00",
        struct.pack("!II", 13, 0x0003_0000) + b"\xff\xfe\x00x\x00",
    ],
)
def test_garbage_inside_tls_is_refused(gate: RunningGate, witness: psycopg.Connection, startup: bytes) -> None:
    with captured() as logs:
        with tls_to(gate) as tls:
            tls.sendall(startup)
            until_closed(tls)
        gate.wait_for(lambda: len(refusals(logs)) >= 1)
    assert len(refusals(logs)) == 1


def test_a_password_that_is_no_token_is_refused_before_it_is_read(
    gate: RunningGate, witness: psycopg.Connection
) -> None:
    with pytest.raises(psycopg.OperationalError, match="not a token of 1 to 32768 bytes"):
        psycopg.connect(gate.dsn(password="x" * 40_000))


def test_a_login_that_dribbles_is_cut_off(
    gate: RunningGate, witness: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "LOGIN_SECONDS", 0.5)
    with captured() as logs:
        with socket.create_connection(("127.0.0.1", gate.port)) as raw:
            raw.sendall(SSL_REQUEST[:3])
            until_closed(raw)
        with tls_to(gate) as tls:
            tls.sendall(b"\x00\x00")
            until_closed(tls)
        gate.wait_for(lambda: len(refusals(logs)) >= 2)
    assert refusals(logs) == ["it took too long to log in"] * 2


def test_two_hundred_connections_that_say_nothing_do_not_keep_others_out(
    gate: RunningGate, witness: psycopg.Connection
) -> None:
    silent = [socket.create_connection(("127.0.0.1", gate.port)) for _ in range(200)]
    try:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        for raw in silent:
            raw.close()


@pytest.mark.parametrize(
    "message",
    [
        b"Q\x00\x00\x00\x03",
        b"Q\xff\xff\xff\xff",
        b"Q\x00\x00\x00\x08abc\x01",
        b"P\x00\x00\x00\x04",
        b"B\x00\x00\x00\x08\x00\x00\x00\x00",
        b"z\x00\x00\x00\x04",
        b"p\x00\x00\x00\x05\x00",
    ],
)
def test_a_session_that_breaks_the_protocol_is_ended_with_a_reason(
    gate: RunningGate, witness: psycopg.Connection, message: bytes
) -> None:
    with tls_to(gate) as tls:
        start(gate, tls)
        tls.sendall(message)
        said = until_closed(tls)
    assert b"C08P01\x00" in said
    assert b"the client broke the protocol" in said


def start(gate: RunningGate, tls: ssl.SSLSocket) -> None:
    parameters = b"user\x00agent\x00database\x00shop\x00\x00"
    tls.sendall(struct.pack("!II", len(parameters) + 8, 0x0003_0000) + parameters)
    token = gate.dsn().split("password=")[1].split()[0].encode() + b"\x00"
    tls.sendall(b"p" + struct.pack("!I", len(token) + 4) + token)
    said = b""
    while not said.endswith(b"Z\x00\x00\x00\x05I"):
        said += tls.recv(65_536)


@pytest.fixture
def small_statements(control: ScriptedControlPlane) -> int:
    """The longest message that the gate takes, in bytes."""
    control.limits = SessionLimits(max_statement_bytes=10_000)
    return control.limits.max_statement_bytes


def test_a_statement_over_the_bound_is_refused_and_the_session_goes_on(
    small_statements: int, gate: RunningGate, witness: psycopg.Connection
) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        for size in (small_statements, 200_000):
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="longer than 10000 bytes"):
                connection.execute("SELECT '" + "x" * size + "'")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                connection.execute("SELECT %s::text", ("x" * size,))
            assert connection.execute("SELECT 1").fetchone() == (1,)
    gate.wait_closed(1)
    denied = [outcome for _, outcome in gate.operations if outcome and outcome.status is OutcomeStatus.DENIED]
    assert len(denied) == 4
    assert {outcome.error_code for outcome in denied} == {"54000"}


def test_a_cancel_request_with_a_guessed_key_does_nothing(gate: RunningGate, witness: psycopg.Connection) -> None:
    with captured() as logs:
        with socket.create_connection(("127.0.0.1", gate.port)) as raw:
            raw.sendall(struct.pack("!IIII", 16, 80877102, 1, 1))
            assert until_closed(raw) == b""
        gate.wait_for(lambda: len(refusals(logs)) >= 1)
    assert refusals(logs) == ["a cancel request with an unknown key"]


def test_a_session_whose_credential_has_expired_is_ended(control: ScriptedControlPlane, gate: RunningGate) -> None:
    control.lifetime_seconds = 1.0
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        gate.wait_closed(1)
        with pytest.raises(psycopg.OperationalError, match="the agent's credential has expired"):
            connection.execute("SELECT 1")
