"""Logs: facts by keyword, and none that sounds like a secret."""

from __future__ import annotations

import pytest

from controlplane.logs import HIDDEN, hide_secrets


@pytest.mark.parametrize("key", ["password", "agent_token", "Authorization", "CREDENTIAL", "private_key_pem", "cookie"])
def test_a_value_under_a_secrets_name_is_hidden(key: str) -> None:
    assert hide_secrets(None, "info", {"event": "x", key: "hunter2"}) == {"event": "x", key: HIDDEN}


def test_other_facts_are_kept() -> None:
    event = {"event": "session_refused", "agent": "reporter", "target": "shop"}
    assert hide_secrets(None, "info", dict(event)) == event
