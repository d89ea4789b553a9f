"""The channel binding of a certificate follows from how it is signed (RFC 5929, 4.1)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from proxyworker.net.binding import server_end_point


def certificate(key: Any, algorithm: hashes.HashAlgorithm | None) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gate")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2027, 1, 1, tzinfo=UTC),
    )
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_it_is_the_digest_by_which_the_certificate_is_signed(algorithm: Any) -> None:
    der = certificate(ec.generate_private_key(ec.SECP256R1()), algorithm)
    assert server_end_point(der) == hashlib.new(algorithm.name, der).digest()


def test_a_certificate_whose_signature_names_no_digest_has_none() -> None:
    assert server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None
