"""Logs: facts by keyword, and none that sounds like a secret, not even in a traceback."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import structlog

from controlplane.logs import HIDDEN, hide_secrets, logging_settings


@pytest.mark.parametrize("key", ["password", "agent_token", "Authorization", "CREDENTIAL", "private_key_pem", "cookie"])
def test_a_value_under_a_secrets_name_is_hidden(key: str) -> None:
    assert hide_secrets(None, "info", {"event": "x", key: "hunter2"}) == {"event": "x", key: HIDDEN}


def test_other_facts_are_kept() -> None:
    event = {"event": "session_refused", "agent": "reporter", "target": "shop"}
    assert hide_secrets(None, "info", dict(event)) == event


def render(record: logging.LogRecord, *, as_json: bool) -> str:
    settings = logging_settings(level="INFO", as_json=as_json)["formatters"]["event"]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=settings["foreign_pre_chain"], processors=settings["processors"]
    )
    return formatter.format(record)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_where_and_no_local_variable(as_json: bool) -> None:
    def fail(word: str) -> None:
        secret = word * 2
        raise RuntimeError(len(secret))

    try:
        fail("hunter2")
    except RuntimeError:
        record = logging.LogRecord("django", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    rendered = render(record, as_json=as_json)
    assert "RuntimeError" in rendered
    assert "test_logs.py" in rendered
    assert "hunter2hunter2" not in rendered
    assert "locals" not in rendered


def test_production_writes_one_json_object_a_line() -> None:
    record = logging.LogRecord("redis", logging.WARNING, __file__, 1, "lost %s", ("it",), None)
    record.token = "hunter2"
    rendered = render(record, as_json=True)
    assert "\n" not in rendered
    event = json.loads(rendered)
    assert (event["event"], event["level"], event["logger"], event["token"]) == ("lost it", "warning", "redis", HIDDEN)
