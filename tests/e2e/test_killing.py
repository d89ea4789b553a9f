"""The kill switch on the whole stack: a psql that works in a loop is dead within the second, and stays out."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from controlplane.supervisor.embedded import postgres_tool
from tests.e2e.demo import Demo, eventually, free_port_block, running_demo
from tests.e2e.rest import rows, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PSQLS = 3
#: Longer than any test lasts, were nobody to kill it.
LOOP = "SELECT count(*), pg_sleep(0.05) FROM customers \\watch 0.05\n"
DEAD_SECONDS = 60.0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("killing") / "home", free_port_block()) as demo:
        yield demo


class LoopingPsql:
    """A psql that asks again and again; `lines` is what it was answered, `said` what it died of."""

    def __init__(self, demo: Demo) -> None:
        told = demo.told
        environment = {"PATH": os.environ["PATH"], "PGPASSFILE": told["gate"]["password_file"]}
        command = (str(postgres_tool("psql")), "-XAt", told["agents"]["support-agent"]["dsn"])
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.process.stdin is not None
        self.process.stdin.write(LOOP)
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line for line in self.process.stdout if line.strip())

    def is_at_work(self) -> bool:
        """It was answered more than once."""
        assert self.process.poll() is None
        return sum("|" in line for line in self.lines) > 2

    def died(self) -> str:
        """Wait for its end; its last words."""
        with self.process:
            self.process.wait(DEAD_SECONDS)
            self._reader.join(DEAD_SECONDS)
        return "".join(line for line in self.lines if "|" not in line)


@pytest.mark.parametrize("scope", ["session", "agent", "target", "tenant"])
def test_whoever_is_killed_is_dead_within_the_second_and_the_order_says_so(demo: Demo, scope: str) -> None:
    looping = [LoopingPsql(demo) for _ in range(1 if scope == "session" else PSQLS)]
    try:
        _drill(demo, scope, looping)
    finally:
        for psql in looping:
            psql.process.kill()
            psql.died()


def _drill(demo: Demo, scope: str, looping: list[LoopingPsql]) -> None:
    for psql in looping:
        eventually(psql.is_at_work)
    [session, *_] = rows(demo, "sessions/", state="live", agent__name="support-agent")
    subject = {"session": session["id"], "agent": "support-agent", "target": session["target"], "tenant": ""}[scope]
    order = send(demo, "POST", "kill-orders/", {"scope": scope, "subject": subject, "reason": f"drill of a {scope}"})
    assert order["session_count"] == len(looping)
    assert all(f"drill of a {scope}" in psql.died() for psql in looping)
    dead: dict[str, Any] = {}

    def is_told() -> bool:
        """Dead, and the order's time is the last session's; the worker's record may still correct a session's."""
        dead.update(demo.api(f"kill-orders/{order['id']}/"))
        slowest = max((killed["seconds_to_dead"] or 0.0 for killed in dead["sessions"]), default=0.0)
        return bool(dead["state"] == "dead" and dead["seconds_to_dead"] == slowest)

    eventually(is_told)
    times = sorted(killed["seconds_to_dead"] for killed in dead["sessions"])
    print(f"\nkilled a {scope}: {len(times)} sessions dead after {dead['seconds_to_dead']:.3f} s {times}", end="")
    if scope == "session":
        assert demo.psql("-c", "SELECT 1").returncode == 0
        return
    refused = demo.psql("-c", "SELECT 1")
    assert "is stopped since" in refused.stderr
    assert f"drill of a {scope}" in refused.stderr
    send(demo, "POST", f"kill-orders/{order['id']}/lift/", {"reason": "the drill is over"})
    assert demo.psql("-c", "SELECT 1").returncode == 0
