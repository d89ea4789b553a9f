"""Getting in: TLS, protocol versions, tokens, targets; and who is kept out, with which words."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from pathlib import Path

import psycopg
import pytest

from proxyworker.contract import Secret, SessionClosed, TlsMode, UpstreamCredential
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane, endpoint_of

SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)


def answer(gate: RunningGate) -> list[tuple[int]]:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        return connection.execute("SELECT 42").fetchall()


@pytest.mark.parametrize("role", ["scram", "md5", "cleartext", "trust"])
def test_every_way_of_signing_in_at_the_target_works(
    target_postgres: TargetPostgres, control: ScriptedControlPlane, gate: RunningGate, role: str
) -> None:
    control.credential = UpstreamCredential(username=role, secret=Secret(target_postgres.password))
    assert answer(gate) == [(42,)]
    assert target_postgres.run("SELECT 1") == [(1,)]


@pytest.mark.parametrize("mode", list(TlsMode))
def test_every_tls_mode_towards_the_target_works(
    target_postgres: TargetPostgres, control: ScriptedControlPlane, gate: RunningGate, mode: TlsMode
) -> None:
    control.endpoint = endpoint_of(target_postgres, tls_mode=mode)
    assert answer(gate) == [(42,)]


def test_a_session_at_the_target_is_encrypted_and_bound_to_its_certificate(
    target_postgres: TargetPostgres, gate: RunningGate
) -> None:
    with psycopg.connect(gate.dsn(application_name="bound"), autocommit=True) as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    assert row[0] is True


def test_a_target_with_another_name_than_its_certificate_is_not_trusted(
    target_postgres: TargetPostgres, control: ScriptedControlPlane, gate: RunningGate, tmp_path: Path
) -> None:
    # The gate's own CA did not sign the target's certificate.
    control.endpoint = endpoint_of(target_postgres, ca_pem=gate.ca_file.read_text())
    with pytest.raises(psycopg.OperationalError, match="target shop cannot be reached") as caught:
        answer(gate)
    assert target_postgres.host not in str(caught.value).replace("127.0.0.1", "", 1).split("failed:", 1)[-1]
    gate.wait_closed(1)
    assert gate.of(SessionClosed)[0].reason == "the target could not be reached"


def test_a_target_that_is_down_is_told_without_its_address(
    target_postgres: TargetPostgres, control: ScriptedControlPlane, gate: RunningGate
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        control.endpoint = endpoint_of(target_postgres, port=unused.getsockname()[1])
        with pytest.raises(psycopg.OperationalError) as caught:
            answer(gate)
        assert "cannot be reached" in str(caught.value)
        assert str(unused.getsockname()[1]) not in str(caught.value)


def test_a_wrong_password_for_the_target_tells_the_agent_nothing_of_it(
    target_postgres: TargetPostgres, control: ScriptedControlPlane, gate: RunningGate
) -> None:
    control.credential = UpstreamCredential(username="scram", secret=Secret("not-the-password"))
    with pytest.raises(psycopg.OperationalError) as caught:
        answer(gate)
    assert "does not accept the gate" in str(caught.value)
    assert "not-the-password" not in str(caught.value)
    assert '"scram"' not in str(caught.value)


def test_a_bad_token_is_refused_with_what_would_help(gate: RunningGate) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(gate.dsn(password="ng_wrong"))
    assert "the token is not known or has expired" in str(caught.value)
    assert "Get a new token" in str(caught.value)
    assert "ng_wrong" not in str(caught.value)
    assert not gate.sessions


def test_an_unknown_target_is_refused(gate: RunningGate) -> None:
    with pytest.raises(psycopg.OperationalError, match="no target nowhere for you"):
        psycopg.connect(gate.dsn(dbname="nowhere"))


def test_replication_is_refused(gate: RunningGate) -> None:
    with pytest.raises(psycopg.OperationalError, match="replication connections are not supported"):
        psycopg.connect(gate.dsn(replication="database"))


def test_without_tls_the_token_is_not_asked_for(gate: RunningGate) -> None:
    with pytest.raises(psycopg.OperationalError, match="TLS is required"):
        psycopg.connect(gate.dsn(sslmode="disable", sslrootcert=""))


def test_tls_at_once_works_with_its_alpn_name(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(sslnegotiation="direct"), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_tls_at_once_without_the_alpn_name_is_refused(gate: RunningGate) -> None:
    context = ssl.create_default_context(cafile=str(gate.ca_file))
    with (
        socket.create_connection(("127.0.0.1", gate.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        assert tls.recv(100) == b""


def test_gss_encryption_is_declined_and_tls_can_follow(gate: RunningGate) -> None:
    with socket.create_connection(("127.0.0.1", gate.port)) as raw:
        raw.sendall(GSSENC_REQUEST)
        assert raw.recv(1) == b"N"
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(gate.ca_file))
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            assert tls.version() is not None


def test_bytes_sent_ahead_of_tls_are_not_read_as_if_they_came_by_it(gate: RunningGate) -> None:
    with socket.create_connection(("127.0.0.1", gate.port)) as raw:
        # CVE-2021-23214: a startup message in the clear, in the same packet as the request for TLS.
        raw.sendall(SSL_REQUEST + struct.pack("!II", 9, 196608) + b"\x00")
        assert raw.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(gate.ca_file))
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(raw, server_hostname="localhost")


@pytest.mark.parametrize(
    ("asked", "newest", "key_bytes"),
    [(0x0003_0000, None, 4), (0x0003_0001, 0x0003_0000, 4), (0x0003_0002, None, 32), (0x0003_270F, 0x0003_0002, 32)],
)
def test_the_protocol_version_is_negotiated(gate: RunningGate, asked: int, newest: int | None, key_bytes: int) -> None:
    context = ssl.create_default_context(cafile=str(gate.ca_file))
    with socket.create_connection(("127.0.0.1", gate.port)) as raw:
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            parameters = b"user\x00agent\x00database\x00shop\x00\x00"
            tls.sendall(struct.pack("!II", len(parameters) + 8, asked) + parameters)
            stream = tls.makefile("rb")
            kind, body = read_message(stream)
            if newest is not None:
                assert (kind, body[:4]) == (b"v", struct.pack("!I", newest))
                kind, body = read_message(stream)
            assert (kind, body) == (b"R", struct.pack("!I", 3))
            token = gate.dsn().split("password=")[1].split()[0].encode() + b"\x00"
            tls.sendall(b"p" + struct.pack("!I", len(token) + 4) + token)
            messages = {}
            while kind != b"Z":
                kind, body = read_message(stream)
                messages[kind] = body
            assert len(messages[b"K"]) == 4 + key_bytes
            stream.close()


def read_message(stream: object) -> tuple[bytes, bytes]:
    header = stream.read(5)  # type: ignore[attr-defined]
    return header[:1], stream.read(int.from_bytes(header[1:], "big") - 4)  # type: ignore[attr-defined]


def test_libpq_can_ask_for_protocol_3_2(gate: RunningGate) -> None:
    if psycopg.pq.version() < 180000:
        pytest.skip("this psycopg carries a libpq before 18, which knows no protocol 3.2")
    with psycopg.connect(gate.dsn(max_protocol_version="latest"), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_settings_in_the_startup_message_reach_the_target(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(options="-csearch_path=pg_catalog", application_name="tuned")) as connection:
        assert connection.execute("SHOW search_path").fetchall() == [("pg_catalog",)]
        assert connection.execute("SHOW application_name").fetchall() == [("tuned",)]
        assert connection.info.parameter_status("server_encoding") == "UTF8"


def test_the_target_is_never_told_the_agents_user_or_token(target_postgres: TargetPostgres, gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(user="mallory"), autocommit=True) as connection:
        assert connection.execute("SELECT current_user").fetchall() == [("scram",)]
    assert "ng_good_token" not in target_postgres.log_file.read_text()


def test_psql_reads_the_ca_file_and_runs(gate: RunningGate, psql: str) -> None:
    done = subprocess.run(
        [psql, gate.dsn(), "-AtX", "-c", "SELECT 'psql is here'"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "psql is here\n"
