"""A local certificate authority and the server certificates that it signs, in PEM files, renewed before they expire.

For one machine's loopback: every certificate names `localhost` and 127.0.0.1. Keys are ECDSA P-256, mode 0600.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.supervisor.embedded import LOOPBACK, Certificate, write_private

if TYPE_CHECKING:
    from pathlib import Path

#: The CA is trusted by hand (`sslrootcert`), so it changes seldom.
AUTHORITY_LIFETIME: Final = timedelta(days=730)
SERVER_LIFETIME: Final = timedelta(days=90)
#: What has less than this left is replaced at the next start.
RENEW_BEFORE: Final = timedelta(days=30)
#: Clocks of client and server may differ.
BACKDATE: Final = timedelta(minutes=5)

_NAMES: Final = (x509.DNSName("localhost"), x509.IPAddress(ip_address(LOOPBACK)))


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA in a folder: `ca.pem` for everybody, `ca.key` for itself."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def _key_file(self) -> Path:
        return self.folder / "ca.key"

    def ensure(self, *, now: datetime) -> bool:
        """There is a CA with time left. True if it was made now."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._key_file.exists() and _has_time_left(self.ca_file, now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Narrowgate local CA")
        unsigned = (
            _builder(key.public_key(), subject=name, issuer=name, now=now, lifetime=AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
        )
        write_private(self._key_file, _key_pem(key))
        self.ca_file.write_text(_pem(unsigned.sign(key, hashes.SHA256())))
        return True

    def ensure_server(self, name: str, *, now: datetime) -> Certificate:
        """A server certificate of this CA with time left, in `<name>.pem` and `<name>.key`."""
        certificate = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        authority = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        if certificate.key_file.exists() and _has_time_left(certificate.chain_file, now, issuer=authority):
            return certificate
        authority_key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)  # noqa: S101  # `ensure` wrote it
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = (
            _builder(key.public_key(), subject=_name(name), issuer=authority.subject, now=now, lifetime=SERVER_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_NAMES), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        write_private(certificate.key_file, _key_pem(key))
        certificate.chain_file.write_text(_pem(unsigned.sign(authority_key, hashes.SHA256())))
        return certificate


def _has_time_left(file: Path, now: datetime, *, issuer: x509.Certificate | None = None) -> bool:
    """The certificate is there, not about to expire, and signed by `issuer` if one is given."""
    if not file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    if issuer is not None:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        theirs = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        if own != theirs:
            return False
    return certificate.not_valid_after_utc - now > RENEW_BEFORE


def _builder(
    public_key: ec.EllipticCurvePublicKey,
    *,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
