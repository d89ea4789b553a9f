"""A worker as a process, and an environment in which it starts."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from tests.proxyworker.control_plane import JOIN_TOKEN, ControlPlane

RunWorker = Callable[..., Awaitable[Process]]


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


@pytest.fixture
async def run_worker(environ: dict[str, str], control_plane: ControlPlane) -> AsyncIterator[RunWorker]:
    """Starts a worker; kills, at the end, what still runs."""
    processes: list[Process] = []

    async def run(*arguments: str, **settings: str) -> Process:
        environment = {
            "PATH": os.environ["PATH"],
            **environ,
            "NARROWGATE_LINK_URL": control_plane.url,
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxyworker", *arguments, env=environment, stderr=PIPE, stdout=PIPE
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until_logged(process: Process, *events: bytes, times: int = 1) -> None:
    """Return when the worker has logged each of these so often."""
    assert process.stderr is not None
    missing = dict.fromkeys(events, times)
    while missing:
        line = await process.stderr.readline()
        assert line, f"the worker ended without {missing}"
        left = {event: count - (event in line) for event, count in missing.items()}
        missing = {event: count for event, count in left.items() if count}
