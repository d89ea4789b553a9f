"""SCRAM's server half: against the RFC's example, an honest client, and what a hostile one can change."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramException, ScramMechanism

from proxyworker.wire.postgres import scram
from proxyworker.wire.postgres.errors import MalformedScram, NotBound, WireError
from proxyworker.wire.postgres.scram import PLAIN, PLUS, Exchange, Verifier, parse_client_first, parse_verifier
from tests.fuzz import scram as fuzzed

#: RFC 7677, 3: user "user", password "pencil".
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
RFC_SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"

BINDING = hashlib.sha256(b"our certificate").digest()
PASSWORD = "pencil"


def verifier_of(password: str = PASSWORD, *, salt: bytes = RFC_SALT) -> Verifier:
    _, stored, server, iterations = ScramMechanism(PLAIN).make_auth_info(password, iteration_count=4096, salt=salt)
    return Verifier(iterations=iterations, salt=salt, stored_key=stored, server_key=server)


VERIFIER = verifier_of()


def is_right(key: bytes, verifier: Verifier = VERIFIER) -> bool:
    return hmac.compare_digest(hashlib.sha256(key).digest(), verifier.stored_key)


@dataclass(frozen=True, slots=True)
class Talk:
    """An honest client's messages, before anybody has changed them."""

    client: Any
    exchange: Exchange
    first: bytes
    final: bytes


def talk(
    *, password: str = PASSWORD, binding: bytes | None = BINDING, seen: bytes | None = BINDING, nonce: str = "server"
) -> Talk:
    """Up to the client's last message. `seen` is the binding as the client sees it."""
    offered = scram.mechanisms(binding)
    channel = None if seen is None else (scram.BINDING_NAME, seen)
    client = ScramClient(offered if channel else [PLAIN], "anybody", password, channel_binding=channel)
    first = client.get_client_first().encode()
    opening = parse_client_first(client.mechanism_name, first, binding=binding)
    exchange = Exchange(opening, VERIFIER, binding=binding, nonce=nonce)
    client.set_server_first(exchange.server_first.decode())
    return Talk(client, exchange, first, client.get_client_final().encode())


def test_the_example_of_the_rfc_holds() -> None:
    opening = parse_client_first(PLAIN, RFC_CLIENT_FIRST, binding=None)
    exchange = Exchange(opening, VERIFIER, binding=None, nonce=RFC_SERVER_NONCE)
    assert exchange.server_first == RFC_SERVER_FIRST
    proof = exchange.finish(RFC_CLIENT_FINAL)
    assert proof.server_final == RFC_SERVER_FINAL
    assert is_right(proof.client_key)


@pytest.mark.parametrize("binding", [BINDING, None])
@pytest.mark.parametrize("seen", [BINDING, None])
def test_an_honest_client_proves_its_password_and_is_answered(binding: bytes | None, seen: bytes | None) -> None:
    said = talk(binding=binding, seen=seen)
    proof = said.exchange.finish(said.final)
    assert is_right(proof.client_key)
    said.client.set_server_final(proof.server_final.decode())


def test_libpqs_empty_user_name_is_taken() -> None:
    assert parse_client_first(PLUS, fuzzed.FIRST, binding=BINDING).bare == "n=,r=client"


def test_another_password_gives_another_key() -> None:
    said = talk(password="pen")
    assert not is_right(said.exchange.finish(said.final).client_key)


def test_a_server_that_does_not_know_the_verifier_is_not_believed_by_the_client() -> None:
    said = talk()
    stranger = Exchange(
        parse_client_first(PLUS, said.first, binding=BINDING),
        replace(VERIFIER, server_key=bytes(32)),
        binding=BINDING,
        nonce="server",
    )
    with pytest.raises(ScramException):
        said.client.set_server_final(stranger.finish(said.final).server_final.decode())


def test_an_offer_that_was_stripped_of_its_binding_is_noticed() -> None:
    """A client that says y was shown no -PLUS, though we offer it: somebody took it out."""
    with pytest.raises(NotBound, match="another offer"):
        parse_client_first(PLAIN, b"y,,n=,r=client", binding=BINDING)


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        (PLUS, b"n,,n=,r=client"),
        (PLUS, b"y,,n=,r=client"),
        (PLAIN, b"p=tls-server-end-point,,n=,r=client"),
        (PLUS, b"p=tls-unique,,n=,r=client"),
        (PLUS, b"p=tls-exporter,,n=,r=client"),
        ("SCRAM-SHA-1", b"n,,n=,r=client"),
        ("scram-sha-256", b"n,,n=,r=client"),
        ("", b"n,,n=,r=client"),
    ],
)
def test_a_mechanism_that_contradicts_its_flag_or_was_not_offered_is_refused(mechanism: str, first: bytes) -> None:
    with pytest.raises(MalformedScram):
        parse_client_first(mechanism, first, binding=BINDING)


def test_binding_is_no_choice_where_it_was_not_offered() -> None:
    with pytest.raises(MalformedScram):
        parse_client_first(PLUS, fuzzed.FIRST, binding=None)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=with space",
        b"n,,n=,r=\x7f",
        b"n,a=admin,n=,r=client",
        b"n,,m=must,n=,r=client",
        b"n,,n=,r=client,m=must",
        b"n,,r=client,n=",
        b"n,,n=a\x00b,r=client",
        b"n,,n=,r=client,",
        b"n,,n=,r=client\n",
        b"x,,n=,r=client",
        b"n,,n=\xff,r=client",
        b"n,,n=,r=" + b"a" * scram.MAX_SASL_BYTES,
    ],
)
def test_a_malformed_opening_is_refused_without_quoting_it(first: bytes) -> None:
    with pytest.raises(MalformedScram, match=r"^SCRAM: a m(alformed first message|essage (over|that is not) .*)$"):
        parse_client_first(PLAIN, first, binding=None)


@pytest.mark.parametrize(
    ("find", "put"),
    [
        (b"r=", b"r=x"),
        (b",p=", b"x,p="),
        (b"c=", b"c=A"),
        (b",p=", b",m=must,p="),
        (b",p=", b",p=A"),
        (b"c=", b"x=1,c="),
    ],
)
def test_a_last_message_that_was_tampered_with_is_refused(find: bytes, put: bytes) -> None:
    said = talk()
    with pytest.raises(WireError):
        said.exchange.finish(said.final.replace(find, put, 1))


def test_an_extension_that_somebody_adds_spoils_the_proof() -> None:
    said = talk()
    assert not is_right(said.exchange.finish(said.final.replace(b",p=", b",x=more,p=")).client_key)


def test_a_last_message_that_is_cut_anywhere_is_refused() -> None:
    said = talk()
    for size in range(len(said.final)):
        with pytest.raises(MalformedScram):
            said.exchange.finish(said.final[:size])


def test_a_client_bound_to_another_certificate_is_refused() -> None:
    """Who relays a login shows a certificate of its own."""
    said = talk(seen=hashlib.sha256(b"the relay's certificate").digest())
    with pytest.raises(NotBound, match="another channel"):
        said.exchange.finish(said.final)


def test_what_proved_a_password_once_proves_nothing_again() -> None:
    said = talk(nonce="once")
    assert is_right(said.exchange.finish(said.final).client_key)
    opening = parse_client_first(PLUS, said.first, binding=BINDING)
    again = Exchange(opening, VERIFIER, binding=BINDING, nonce="twice")
    with pytest.raises(MalformedScram, match="another challenge"):
        again.finish(said.final)
    assert not is_right(again.finish(said.final.replace(b"once,", b"twice,")).client_key)


def test_nothing_of_a_verifier_or_a_key_is_shown() -> None:
    said = talk()
    for shown in (repr(VERIFIER), repr(said.exchange.finish(said.final))):
        assert "_key" not in shown
        assert "v=" not in shown


TEXT = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$" + "A" * 43 + "=:" + "A" * 43 + "="


def test_a_verifier_in_postgresqls_form_is_read() -> None:
    read = parse_verifier(TEXT)
    assert (read.iterations, read.salt, read.stored_key, read.server_key) == (4096, RFC_SALT, bytes(32), bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5" + "a" * 32,
        TEXT.replace("4096", "1"),
        TEXT.replace("4096", "99999999"),
        TEXT.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        TEXT.replace("256", "1"),
        TEXT[:-1],
        TEXT + "\n",
    ],
)
def test_what_is_no_verifier_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^no SCRAM-SHA-256 verifier$"):
        parse_verifier(text)


nonces = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=40)


@settings(max_examples=40)
@given(
    password=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20),
    tried=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20),
    salt=st.binary(min_size=12, max_size=24),
    server_nonce=nonces,
    is_bound=st.booleans(),
)
def test_the_key_is_right_exactly_if_the_password_is(
    password: str, tried: str, salt: bytes, server_nonce: str, is_bound: bool
) -> None:
    verifier = verifier_of(password, salt=salt)
    binding = BINDING if is_bound else None
    channel = (scram.BINDING_NAME, BINDING) if is_bound else None
    client = ScramClient(scram.mechanisms(binding), "u", tried, channel_binding=channel)
    opening = parse_client_first(client.mechanism_name, client.get_client_first().encode(), binding=binding)
    exchange = Exchange(opening, verifier, binding=binding, nonce=server_nonce)
    client.set_server_first(exchange.server_first.decode())
    proof = exchange.finish(client.get_client_final().encode())
    assert is_right(proof.client_key, verifier) == (password == tried)
