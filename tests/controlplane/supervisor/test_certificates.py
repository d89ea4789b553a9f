"""The local CA: what it signs is accepted by OpenSSL, and renewed in time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from controlplane.supervisor.certificates import AUTHORITY_LIFETIME, RENEW_BEFORE, SERVER_LIFETIME, Authority

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "tls")
    assert authority.ensure(now=NOW)
    return authority


@pytest.mark.parametrize(("name", "accepted"), [("localhost", True), ("127.0.0.1", True), ("example.com", False)])
def test_a_client_that_verifies_the_name_accepts_localhost_only(
    authority: Authority, name: str, accepted: bool
) -> None:
    certificate = authority.ensure_server("gate", now=NOW)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate.chain_file, certificate.key_file)
    client_side = ssl.create_default_context(cafile=str(authority.ca_file))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    if accepted:
        _shake_hands(client, server)
        assert client.version() == "TLSv1.3"
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            _shake_hands(client, server)


def _shake_hands(client: ssl.SSLObject, server: ssl.SSLObject) -> None:
    pending = [client, server]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(side)


def test_a_certificate_is_kept_while_it_has_time_left(authority: Authority) -> None:
    before = authority.ensure_server("gate", now=NOW).chain_file.read_bytes()
    later = NOW + SERVER_LIFETIME - RENEW_BEFORE - timedelta(minutes=1)
    assert authority.ensure_server("gate", now=later).chain_file.read_bytes() == before


def test_a_certificate_is_renewed_before_it_expires(authority: Authority) -> None:
    before = authority.ensure_server("gate", now=NOW).chain_file.read_bytes()
    assert authority.ensure_server("gate", now=NOW + SERVER_LIFETIME - RENEW_BEFORE).chain_file.read_bytes() != before


def test_a_new_authority_signs_its_servers_anew(authority: Authority) -> None:
    before = authority.ensure_server("gate", now=NOW).chain_file.read_bytes()
    later = NOW + AUTHORITY_LIFETIME
    assert authority.ensure(now=later)
    assert authority.ensure_server("gate", now=NOW).chain_file.read_bytes() != before


def test_an_authority_with_time_left_is_kept(authority: Authority) -> None:
    before = authority.ca_file.read_bytes()
    assert not authority.ensure(now=NOW + timedelta(days=300))
    assert authority.ca_file.read_bytes() == before


def test_keys_are_readable_by_their_owner_only(authority: Authority) -> None:
    authority.ensure_server("gate", now=NOW)
    keys = list(authority.folder.glob("*.key"))
    assert len(keys) == 2
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
