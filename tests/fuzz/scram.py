"""A client that proves itself by SCRAM: a key that nobody can have without the password, or the wire's own errors."""

from __future__ import annotations

import hashlib

from proxyworker.wire.postgres import scram
from proxyworker.wire.postgres.errors import MalformedScram, NotBound
from tests.fuzz.run import fuzz

BINDING = hashlib.sha256(b"certificate").digest()
VERIFIER = scram.Verifier(iterations=4096, salt=bytes(16), stored_key=bytes(32), server_key=bytes(32))
NONCE = "server"
FIRST = b"p=tls-server-end-point,,n=,r=client"
#: base64 of "p=tls-server-end-point,," and the binding.
BOUND = b"cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAYKwIb4tH2sb2USXY8+u7sT3/vuD1rh1HydoZG8JDN4="
FINAL = b"c=" + BOUND + b",r=clientserver,p=" + b"A" * 43 + b"="
SEEDS = (
    FIRST + b"\n" + FINAL,
    b"n,,n=agent,r=client\nc=biws,r=clientserver,p=" + b"A" * 43 + b"=",
    b"y,,n=agent,r=client\nc=eSws,r=clientserver,p=" + b"A" * 43 + b"=",
    b"n,,n=,r=client,x=more\nc=biws,r=clientserver,x=more,p=" + b"A" * 43 + b"=",
)


def one_input(data: bytes) -> None:
    """`data` is a client's two messages, and a line feed between them."""
    first, _, final = data.partition(b"\n")
    for mechanism in (scram.PLAIN, scram.PLUS, "SCRAM-SHA-1"):
        for binding in (BINDING, None):
            try:
                opening = scram.parse_client_first(mechanism, first, binding=binding)
            except (MalformedScram, NotBound):
                continue
            assert opening.gs2_header.encode() + opening.bare.encode() == first
            assert (mechanism == scram.PLUS) == opening.gs2_header.startswith("p=")
            exchange = scram.Exchange(opening, VERIFIER, binding=binding, nonce=NONCE)
            assert exchange.server_first.startswith(f"r={opening.nonce}{NONCE},".encode())
            try:
                proof = exchange.finish(final)
            except (MalformedScram, NotBound):
                continue
            assert f",r={opening.nonce}{NONCE}".encode() in final
            assert hashlib.sha256(proof.client_key).digest() != VERIFIER.stored_key


if __name__ == "__main__":
    fuzz(one_input)
