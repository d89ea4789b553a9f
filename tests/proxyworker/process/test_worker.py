"""`python -m proxyworker` as a process: it starts, signs on, stops, and says why it can't."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from pathlib import Path

from proxyworker.contract import Enrol, Heartbeat, JournalOpened
from tests.proxyworker.control_plane import JOIN_TOKEN, ControlPlane
from tests.proxyworker.process.conftest import RunWorker, until_logged


async def test_a_worker_signs_on_ships_its_first_record_and_stops_when_told(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    worker = await run_worker()
    await control_plane.heard_of(Heartbeat)
    await control_plane.has_records(1)
    assert isinstance(control_plane.records[0], JournalOpened)
    assert control_plane.records[0].worker == "test-worker"
    worker.send_signal(signal.SIGTERM)
    _, log = await worker.communicate()
    assert worker.returncode == 0
    assert b"stopping" in log
    assert JOIN_TOKEN.encode() not in log


async def test_a_second_start_is_the_same_worker_with_the_same_journal(
    run_worker: RunWorker, control_plane: ControlPlane
) -> None:
    for start in (1, 2):
        worker = await run_worker()
        await control_plane.has_records(start)
        worker.kill()
        await worker.communicate()
    assert sum(isinstance(frame, Enrol) for frame in control_plane.heard) == 1
    assert len(control_plane.journals) == 1


async def test_a_worker_without_a_control_plane_listens_and_stops_when_told(
    run_worker: RunWorker, environ: dict[str, str]
) -> None:
    worker = await run_worker(NARROWGATE_LINK_URL="ws://127.0.0.1:9/link/v1/")
    await until_logged(worker, b"listening")
    worker.send_signal(signal.SIGINT)
    await worker.communicate()
    assert worker.returncode == 0


async def test_what_a_worker_can_not_use_ends_it_with_status_2_and_one_line(
    run_worker: RunWorker, environ: dict[str, str], tmp_path: Path
) -> None:
    for settings, words in [
        ({"NARROWGATE_WORKER_NAME": ""}, b"NARROWGATE_WORKER_NAME"),
        ({"NARROWGATE_TLS_KEY_FILE": str(tmp_path / "join-token")}, b"no pair"),
    ]:
        worker = await run_worker(**settings)
        _, log = await worker.communicate()
        assert worker.returncode == 2
        assert words in log
        assert len(log.splitlines()) == 1


async def test_two_workers_can_not_share_a_state_folder(run_worker: RunWorker, environ: dict[str, str]) -> None:
    first = await run_worker()
    await until_logged(first, b"listening")
    second = await run_worker()
    _, log = await second.communicate()
    assert second.returncode == 2
    assert b"another worker" in log


async def test_agents_meet_the_gate_s_certificate_whatever_the_link_does(
    run_worker: RunWorker, environ: dict[str, str], tmp_path: Path
) -> None:
    worker = await run_worker(NARROWGATE_LINK_URL="ws://127.0.0.1:9/link/v1/")
    await until_logged(worker, b"listening")
    host, _, port = environ["NARROWGATE_POSTGRES_LISTEN"].partition(":")
    certificate = await asyncio.to_thread(_certificate_of, host, int(port))
    assert certificate in (tmp_path / "gate.pem").read_text()


def _certificate_of(host: str, port: int) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port)) as raw:
        raw.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
        assert raw.recv(1) == b"S"
        with context.wrap_socket(raw) as encrypted:
            certificate = encrypted.getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate).strip()
