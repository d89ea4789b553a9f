"""The channel binding tls-server-end-point (RFC 5929, 4): which certificate the server showed."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm


def server_end_point(certificate: bytes) -> bytes | None:
    """The digest of a certificate in DER; None for one whose signature names no digest (Ed25519), which has none."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    # RFC 5929, 4.1: MD5 and SHA-1 count as SHA-256.
    return hashlib.new("sha256" if algorithm.name in ("md5", "sha1") else algorithm.name, certificate).digest()
