"""What an earlier supervisor left: recognised, ended, and never confused with somebody else's process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from controlplane.supervisor.embedded import LOOPBACK
from controlplane.supervisor.processes import HomeBusy, PortTaken, Register, check_port, identify, locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WAITS = "import sys; print('up', flush=True); sys.stdin.read()"
_IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_WAITS}"
_HAS_A_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_WAITS!r}]).wait()"


def _start(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[str]]:
    with _start(_WAITS) as process:
        yield process
        process.kill()


def test_a_home_is_for_one_supervisor_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(HomeBusy, match=f"as process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("code", [_WAITS, _HAS_A_CHILD])
def test_a_process_that_was_left_is_ended_with_all_it_started(tmp_path: Path, code: str) -> None:
    with _start(code) as left:
        Register(tmp_path / "processes.json").note("web", left.pid)
        assert Register(tmp_path / "processes.json").end_leftovers() == ["web"]
        assert left.wait() == -signal.SIGTERM


def test_a_process_that_is_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.supervisor.processes.LEFTOVER_SECONDS", 0.2)
    with _start(_IGNORES_SIGTERM) as left:
        Register(tmp_path / "processes.json").note("web", left.pid)
        assert Register(tmp_path / "processes.json").end_leftovers() == ["web"]
        assert left.wait() == -signal.SIGKILL


def test_a_process_that_got_the_number_of_an_old_one_is_left_alone(
    tmp_path: Path, bystander: subprocess.Popen[str]
) -> None:
    identity = identify(bystander.pid)
    assert identity is not None
    (tmp_path / "processes.json").write_text(json.dumps({"web": [identity.pid, identity.start_ticks - 1]}))
    assert Register(tmp_path / "processes.json").end_leftovers() == []
    assert bystander.poll() is None


def test_what_was_forgotten_is_not_ended(tmp_path: Path, bystander: subprocess.Popen[str]) -> None:
    register = Register(tmp_path / "processes.json")
    register.note("web", bystander.pid)
    register.forget("web")
    assert Register(tmp_path / "processes.json").end_leftovers() == []
    assert bystander.poll() is None


def test_a_half_written_register_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text('{"web": [12')
    assert Register(tmp_path / "processes.json").end_leftovers() == []


def test_a_port_that_is_taken_is_named_with_its_purpose() -> None:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port}, for web, .* NARROWGATE_PORT_BASE"):
            check_port(port, "web")
    check_port(port, "web")
