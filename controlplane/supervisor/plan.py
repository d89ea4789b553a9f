"""What runs in a home folder: each server and each program of ours, with its command and how it is known to answer."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from controlplane.supervisor.children import ChildSpec
from controlplane.supervisor.embedded import CHECK_SECONDS, LOOPBACK, Certificate, Postgres, Server, Valkey
from proxyworker.contract import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controlplane.supervisor.layout import Layout

#: Tasks of a demo are few and short. Threads, because forks would outlive a killed parent.
CELERY_THREADS: Final = 2
#: PostgreSQL's SSLRequest (message formats, 55.7): length 8, code 80877103.
_SSL_REQUEST: Final = struct.pack("!II", 8, 80_877_103)


def control_postgres(layout: Layout) -> Postgres:
    """The control plane's own database."""
    return Postgres(name="postgres", folder=layout.home / "postgres", port=layout.postgres_port)


def valkey(layout: Layout) -> Valkey:
    """Broker, cache and channel layer."""
    return Valkey(
        name="valkey", folder=layout.home / "valkey", port=layout.valkey_port, password=layout.secret("valkey")
    )


def target_postgres(layout: Layout, certificate: Certificate) -> Postgres:
    """The demo's target: TLS only, as a target should be."""
    return Postgres(
        name="target",
        folder=layout.home / "target",
        port=layout.target_port,
        certificate=certificate,
        host_rules=f"hostssl all all {LOOPBACK}/32 scram-sha-256\n",
    )


def server_child(server: Server, environment: Mapping[str, str]) -> ChildSpec:
    """An embedded server as a child."""
    return ChildSpec(
        name=server.name,
        command=server.command(),
        is_ready=server.is_ready,
        environment=environment,
        prepare=server.prepare,
        stop_signal=server.stop_signal,
    )


def web(layout: Layout) -> ChildSpec:
    """Django under daphne: admin, REST and the workers' link."""
    return ChildSpec(
        name="web",
        # Daphne's own bound on a message is less than a full frame of the link; it would also end each link once a day.
        command=_python(
            "daphne",
            f"--bind={LOOPBACK}",
            f"--port={layout.web_port}",
            "--websocket_timeout=-1",
            f"--websocket-max-message-size={MAX_FRAME_BYTES}",
            f"--websocket-max-frame-size={MAX_FRAME_BYTES}",
            "controlplane.asgi:application",
        ),
        is_ready=partial(_web_answers, layout.web_port),
        environment=layout.control_plane_environment(),
    )


def celery(layout: Layout) -> ChildSpec:
    """Runs the tasks. Nobody waits for it at the start, so being there is enough."""
    return ChildSpec(
        name="celery",
        command=_python(
            "celery", "--app=controlplane.celery:app", "worker", "--pool=threads", f"--concurrency={CELERY_THREADS}",
            "--without-gossip", "--without-mingle", "--loglevel=INFO",
        ),
        is_ready=_always,
        environment=layout.control_plane_environment(),
    )  # fmt: skip


def beat(layout: Layout) -> ChildSpec:
    """Starts the tasks that are due. Without a PID file: after a crash, it would refuse to start."""
    return ChildSpec(
        name="beat",
        command=_python("celery", "--app=controlplane.celery:app", "beat", "--pidfile=", "--loglevel=INFO"),
        is_ready=_always,
        environment=layout.control_plane_environment(),
    )


def worker(layout: Layout) -> ChildSpec:
    """The proxyworker, with the PostgreSQL gate."""
    return ChildSpec(
        name="worker",
        command=_python("proxyworker"),
        is_ready=partial(_gate_offers_tls, layout.gate_port),
        environment=layout.worker_environment(),
    )


def manage(*arguments: str) -> tuple[str, ...]:
    """A command of manage.py."""
    return (sys.executable, "manage.py", *arguments)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _always() -> bool:
    return True


def _web_answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=CHECK_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _gate_offers_tls(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=CHECK_SECONDS) as connection:
            connection.sendall(_SSL_REQUEST)
            return connection.recv(1) == b"S"
    except OSError:
        return False
