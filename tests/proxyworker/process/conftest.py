"""An environment in which a worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.proxyworker.control_plane import JOIN_TOKEN


@pytest.fixture
def environ(tmp_path: Path, unused_tcp_port: int) -> dict[str, str]:
    """Everything that a worker needs but a control plane: nobody listens where the link goes."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "gate.pem")
    (tmp_path / "join-token").write_text(JOIN_TOKEN)
    return {
        "NARROWGATE_MODE": "test",
        "NARROWGATE_LINK_URL": "ws://127.0.0.1:9/link/v1/",
        "NARROWGATE_WORKER_NAME": "test-worker",
        "NARROWGATE_WORKER_STATE": str(tmp_path / "state"),
        "NARROWGATE_JOIN_TOKEN_FILE": str(tmp_path / "join-token"),
        "NARROWGATE_POSTGRES_LISTEN": f"127.0.0.1:{unused_tcp_port}",
        "NARROWGATE_TLS_CERT_FILE": str(tmp_path / "gate.pem"),
        "NARROWGATE_TLS_KEY_FILE": str(tmp_path / "gate.pem"),
    }
