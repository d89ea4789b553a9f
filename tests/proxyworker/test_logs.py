"""The worker's log, as a process writes it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_FAILS = """
import asyncio, sys
from proxyworker.config import LogLevel
from proxyworker.logs import configure_logs
from proxyworker.net.tasks import spawn

async def fail(word):
    secret = word * 2
    raise RuntimeError(len(secret))

async def main():
    asyncio.get_running_loop().call_exception_handler({"message": "a callback failed", "exception": await fails()})

async def fails():
    (outcome,) = await asyncio.gather(spawn("fail", fail("hunter2")), return_exceptions=True)
    return outcome

configure_logs(level=LogLevel.INFO, as_json=sys.argv[1] == "json")
asyncio.run(main())
"""


def _log(form: str) -> list[str]:
    command = [sys.executable, "-c", _FAILS, form]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_where_and_no_local_variable(form: str) -> None:
    said = "\n".join(_log(form))
    assert "task_failed" in said
    assert "a callback failed" in said
    assert said.count("RuntimeError") >= 2
    assert "hunter2" not in said
    assert "locals" not in said


def test_production_writes_one_json_object_a_line() -> None:
    events = [json.loads(line)["event"] for line in _log("json")]
    assert events[0] == "task_failed"
    assert events[1].startswith("a callback failed")
