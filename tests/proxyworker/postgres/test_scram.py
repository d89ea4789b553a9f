"""Database logins at the gate: ordinary clients prove a password; who can't, or is in between, stays out."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from scramp import ScramClient

from proxyworker.contract import RefusalCode, Refused, Secret
from proxyworker.errors import LinkUnavailable, SessionRefused
from proxyworker.net.binding import server_end_point
from proxyworker.wire.postgres import backend, frontend, startup
from proxyworker.wire.postgres.scram import BINDING_NAME, PLAIN, PLUS
from tests.proxyworker.postgres.gate import TOKEN, RunningGate, ScriptedControlPlane
from tests.proxyworker.postgres.test_abuse import captured, refusals, until_closed

LOGIN = "0123456789abcdef"
USER = f"ng_{LOGIN}"
PASSWORD = "correct-horse-battery-staple"
UNKNOWN = "fedcba9876543210"


@pytest.fixture
def control(control: ScriptedControlPlane) -> ScriptedControlPlane:
    control.logins[LOGIN] = (PASSWORD, b"a salt of 16 b..")
    return control


def dsn(gate: RunningGate, **options: str) -> str:
    return gate.dsn(**{"user": USER, "password": PASSWORD, **options})


# ---------------------------------------------------------------- ordinary clients


@pytest.mark.parametrize("binding", ["require", "prefer", "disable"])
def test_psql_proves_its_password_and_sees_that_the_gate_knows_it_too(
    gate: RunningGate, psql: str, binding: str
) -> None:
    options = dsn(gate, require_auth="scram-sha-256", channel_binding=binding)
    done = subprocess.run(
        [psql, options, "-AtX", "-c", "SELECT 'by scram'"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("by scram\n", "")
    gate.wait_closed(1)
    [session] = gate.sessions
    assert session.principal.name == "reporter"
    assert gate.outcome_of("SELECT 'by scram'").rows == 1


def test_psycopg_is_bound_to_the_channel(gate: RunningGate) -> None:
    options = dsn(gate, require_auth="scram-sha-256", channel_binding="require")
    with psycopg.connect(options, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


async def test_asyncpg_proves_its_password(gate: RunningGate) -> None:
    connection = await asyncpg.connect(
        host="localhost",
        port=gate.port,
        user=USER,
        password=PASSWORD,
        database="shop",
        ssl=ssl.create_default_context(cafile=str(gate.ca_file)),
    )
    try:
        assert await connection.fetchval("SELECT 'asyncpg'") == "asyncpg"
    finally:
        await connection.close()


def test_a_token_is_sent_as_before_whatever_the_user_is_called(gate: RunningGate) -> None:
    for user in ("agent", "ng_agent", USER.upper(), f"{USER}0"):
        with psycopg.connect(dsn(gate, user=user, password=TOKEN, require_auth="password")) as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_client_that_insists_on_binding_does_not_send_a_token(gate: RunningGate) -> None:
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        psycopg.connect(dsn(gate, user="agent", password=TOKEN, channel_binding="require"))


# ---------------------------------------------------------------- who can't, hears no more than that


def test_a_wrong_password_and_a_login_that_is_not_there_are_the_same(gate: RunningGate) -> None:
    heard = set()
    for user, password in ((USER, "wrong"), (f"ng_{UNKNOWN}", PASSWORD), (f"ng_{UNKNOWN}", "nobody's")):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(dsn(gate, user=user, password=password))
        heard.add(str(caught.value).partition("FATAL")[2])
        assert password not in str(caught.value)
    assert len(heard) == 1
    assert not gate.sessions


def test_what_is_asked_for_an_unknown_login_looks_like_any_other_and_stays_so(gate: RunningGate) -> None:
    seen = []
    for login in (LOGIN, UNKNOWN, UNKNOWN):
        with Client(gate, f"ng_{login}").talking() as client:
            client.begin()
            said = dict(part.split("=", 1) for part in client.challenge.decode().split(","))
            seen.append((len(said["r"]), len(said["s"]), said["i"], said["s"]))
    assert seen[0][:3] == seen[1][:3]
    assert seen[1] == seen[2]


def test_the_control_plane_is_told_where_a_login_comes_from(gate: RunningGate, control: ScriptedControlPlane) -> None:
    with psycopg.connect(dsn(gate)):
        assert control.asked[0] == {"login": LOGIN, "client_host": "127.0.0.1"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LinkUnavailable("gone"), "lost its control plane"),
        (SessionRefused(Refused(1, RefusalCode.BUSY, "too many logins", "Later.")), "too many logins"),
    ],
)
def test_without_an_answer_from_the_control_plane_nobody_is_in(
    gate: RunningGate, control: ScriptedControlPlane, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    async def fail(login: str, *, client_address: str) -> Secret:
        raise error

    monkeypatch.setattr(control, "verifier_of", fail)
    with pytest.raises(psycopg.OperationalError, match=said):
        psycopg.connect(dsn(gate))


def test_a_verifier_that_is_none_lets_nobody_in_and_is_not_shown(
    gate: RunningGate, control: ScriptedControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(login: str, *, client_address: str) -> Secret:
        return Secret("md5-something-secret")

    monkeypatch.setattr(control, "verifier_of", broken)
    with captured() as logs, pytest.raises(psycopg.OperationalError, match="can't be used"):
        psycopg.connect(dsn(gate))
    assert "something-secret" not in str(logs)


def test_neither_password_nor_key_is_in_a_record_or_a_log(gate: RunningGate) -> None:
    with captured() as logs, psycopg.connect(dsn(gate), autocommit=True) as connection:
        connection.execute("SELECT 1")
    gate.wait_closed(1)
    everything = f"{logs}{gate.journal.records}{gate.journal.content}"
    assert PASSWORD not in everything
    assert "ngd_" not in everything


# ---------------------------------------------------------------- hostile clients, byte by byte


class Client:
    """A client whose every message a test may change."""

    def __init__(self, gate: RunningGate, user: str = USER, password: str = PASSWORD) -> None:
        self._gate = gate
        self._user = user
        binding = server_end_point(gate.certificate)
        self.scram: Any = ScramClient([PLUS, PLAIN], user, password, channel_binding=(BINDING_NAME, binding))
        self.challenge = b""
        self.offer = b""

    @contextmanager
    def talking(self) -> Iterator[Client]:
        """Up to the gate's offer."""
        context = ssl.create_default_context(cafile=str(self._gate.ca_file))
        with socket.create_connection(("127.0.0.1", self._gate.port)) as raw:
            raw.sendall(startup.build_ssl_request())
            assert raw.recv(1) == b"S"
            with context.wrap_socket(raw, server_hostname="localhost") as self.tls:
                self.tls.settimeout(20)
                self.tls.sendall(startup.build_startup({"user": self._user, "database": "shop"}))
                self.offer = self.receive()
                yield self

    def receive(self) -> bytes:
        """One message."""
        header = self._exactly(5)
        return header + self._exactly(struct.unpack("!I", header[1:])[0] - 4)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.tls.recv(size - len(data))
            assert more, "the gate hung up"
            data += more
        return data

    def begin(self, message: bytes | None = None, *, mechanism: str = PLUS) -> None:
        """Send the opening, and take the challenge."""
        first = self.scram.get_client_first().encode() if message is None else message
        self.tls.sendall(frontend.build_sasl_initial(mechanism, first))
        frame = self.receive()
        code, self.challenge = backend.parse_authentication(frame)
        assert code == backend.AUTH_CODE_SASL_CONTINUE

    def final(self) -> bytes:
        """The honest last message."""
        self.scram.set_server_first(self.challenge.decode())
        return str(self.scram.get_client_final()).encode()

    def is_refused(self, code: str) -> bool:
        """The gate says so with this SQLSTATE, and hangs up."""
        error = self.receive()
        assert error[:1] == b"E", error
        assert until_closed(self.tls) == b""
        return backend.parse_error(error, 0, len(error)).code == code


@pytest.fixture
def client(gate: RunningGate) -> Iterator[Client]:
    with Client(gate).talking() as client:
        yield client
    assert not gate.sessions


def test_the_better_mechanism_is_offered_first_and_the_password_is_never_asked_for(client: Client) -> None:
    assert client.offer == backend.build_sasl((PLUS, PLAIN))


def test_a_password_in_clear_text_is_no_answer(client: Client) -> None:
    client.tls.sendall(frontend.build_password(PASSWORD.encode()))
    assert client.is_refused("08P01")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-512", "PLAIN", "", "SCRAM-SHA-256\x01"])
def test_another_mechanism_is_refused(client: Client, mechanism: str) -> None:
    client.tls.sendall(frontend.build_sasl_initial(mechanism, b"n,,n=,r=client"))
    assert client.is_refused("08P01")


def test_a_stripped_offer_is_noticed(client: Client) -> None:
    """A client that could bind and says that it saw no -PLUS: somebody took it out of ours."""
    with captured() as logs:
        client.tls.sendall(frontend.build_sasl_initial(PLAIN, b"y,,n=,r=client"))
        assert client.is_refused("28000")
    assert refusals(logs) == ["the client was shown another offer of SCRAM than ours"]


def test_who_relays_a_login_is_found_out_by_the_certificate(gate: RunningGate, client: Client) -> None:
    client.scram = ScramClient([PLUS], USER, PASSWORD, channel_binding=(BINDING_NAME, b"the relay's certificate"))
    client.begin()
    client.tls.sendall(frontend.build_sasl_response(client.final()))
    assert client.is_refused("28000")


def test_a_wrong_proof_is_refused(client: Client) -> None:
    client.begin()
    final = client.final()
    client.tls.sendall(frontend.build_sasl_response(final[:-5] + (b"AAAA=" if final[-5:] != b"AAAA=" else b"BBBB=")))
    assert client.is_refused("28P01")


@pytest.mark.parametrize(("find", "put"), [(b"r=", b"r=x"), (b",p=", b"0,p="), (b",p=", b",m=1,p=")])
def test_a_tampered_nonce_or_an_extension_is_refused(client: Client, find: bytes, put: bytes) -> None:
    client.begin()
    client.tls.sendall(frontend.build_sasl_response(client.final().replace(find, put, 1)))
    assert client.is_refused("08P01")


def test_a_login_that_was_overheard_is_no_good_a_second_time(gate: RunningGate) -> None:
    honest = Client(gate)
    with honest.talking():
        first = honest.scram.get_client_first().encode()
        honest.begin(first)
        overheard = honest.final()
        honest.tls.sendall(frontend.build_sasl_response(overheard))
        assert backend.parse_authentication(honest.receive())[0] == backend.AUTH_CODE_SASL_FINAL
    replayed = Client(gate)
    with replayed.talking():
        replayed.begin(first)
        replayed.tls.sendall(frontend.build_sasl_response(overheard))
        assert replayed.is_refused("08P01")
    nonce = replayed.challenge.partition(b",")[0]
    with replayed.talking():
        replayed.begin(first)
        nonce = replayed.challenge.partition(b",")[0]
        proof = overheard.rpartition(b",p=")[2]
        bound = overheard.partition(b",")[0]
        replayed.tls.sendall(frontend.build_sasl_response(bound + b"," + nonce + b",p=" + proof))
        assert replayed.is_refused("28P01")
    assert len(gate.sessions) == 1


@pytest.mark.parametrize(
    "message",
    [
        b"Q\x00\x00\x00\x0dSELECT 1\x00",
        b"p\x00\x00\x00\x03",
        b"p\x7f\xff\xff\xff",
        b"p\x00\x00\x00\x04",
        b"p\x00\x00\x00\x09SCRAM",
        b"p\x00\x00\x00\x12SCRAM-SHA-256\x00",
        b"p\x00\x00\x00\x16SCRAM-SHA-256\x00\xff\xff\xff\xff",
        b"p\x00\x00\x10\x00" + b"a" * 4092,
    ],
)
def test_a_malformed_first_message_is_refused(client: Client, message: bytes) -> None:
    client.tls.sendall(message)
    assert client.is_refused("08P01")


def test_a_malformed_last_message_is_refused(gate: RunningGate) -> None:
    for message in (b"", b"c=biws", b"\xff\xfe", b"e=no", b"n,,n=,r=again", b"a" * 1_025):
        with Client(gate).talking() as client:
            client.begin()
            client.tls.sendall(frontend.build_sasl_response(message))
            assert client.is_refused("08P01")


def test_a_client_that_leaves_in_the_middle_leaves_one_line(gate: RunningGate) -> None:
    with captured() as logs:
        with Client(gate).talking() as client:
            client.begin()
        gate.wait_for(lambda: bool(refusals(logs)))
    assert refusals(logs) == ["it went away while logging in"]
