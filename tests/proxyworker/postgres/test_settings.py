"""Settings by which the target would read texts otherwise than the gate, or names would lead elsewhere.

They come with a startup message, or from within the database.
"""

from __future__ import annotations

import psycopg
import pytest

from policies.engine import Effect, Hazard, Rule
from proxyworker.contract import SessionClosed
from proxyworker.postgres.settings import settings_operation
from proxyworker.postgres.understand.accesses import is_read_alike
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane

ALL_OF_THEM = {Hazard.SYSTEM_SETTING, Hazard.SEARCH_PATH, Hazard.ROLE_CHANGE}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"application_name": "x", "client_encoding": "utf-8", "options": "-c geqo=off --statement-timeout=5"}, set()),
        ({"client_encoding": "SJIS"}, {Hazard.SYSTEM_SETTING}),
        ({"search_path": "x"}, {Hazard.SEARCH_PATH}),
        ({"Role": "admin"}, {Hazard.ROLE_CHANGE}),
        ({"options": "-csearch_path=x"}, {Hazard.SEARCH_PATH}),
        ({"options": "-c  search_path=x,y -c geqo=on"}, {Hazard.SEARCH_PATH}),
        ({"options": "--search-path=x"}, {Hazard.SEARCH_PATH}),
        ({"options": "--ROLE=x"}, {Hazard.ROLE_CHANGE}),
        ({"options": "-c application_name=a\\ -c\\ b"}, set()),
        ({"options": "-c standard_conforming_strings=o\\ff"}, {Hazard.SYSTEM_SETTING}),
        ({"options": "-F"}, ALL_OF_THEM),
        ({"options": "-c"}, ALL_OF_THEM),
    ],
)
def test_settings_of_a_startup_message_are_what_a_set_of_them_would_be(
    parameters: dict[str, str], expected: set[Hazard]
) -> None:
    operation = settings_operation(parameters)
    assert (set() if operation is None else set(operation.hazards)) == expected


@pytest.mark.parametrize(
    ("name", "value", "is_alike"),
    [
        ("client_encoding", "UTF8", True),
        ("client_encoding", "Latin-1", True),
        ("client_encoding", "WIN1252", True),
        ("client_encoding", "EUC_JP", True),
        ("client_encoding", "SQL_ASCII", True),
        ("client_encoding", "SJIS", False),
        ("client_encoding", "GB18030", False),
        ("client_encoding", "BIG5", False),
        ("client_encoding", "", False),
        ("standard_conforming_strings", "on", True),
        ("standard_conforming_strings", "off", False),
        ("work_mem", "1MB", True),
    ],
)
def test_encodings_and_strings_are_read_alike_or_not(name: str, value: str, is_alike: bool) -> None:
    assert is_read_alike(name, value) is is_alike


@pytest.mark.parametrize("options", ["-csearch_path=secret", "-crole=admin", "-cstandard_conforming_strings=off"])
def test_a_session_with_such_settings_is_not_admitted_unless_a_rule_says_so(
    control: ScriptedControlPlane, gate: RunningGate, options: str
) -> None:
    everything = control.rules
    control.rules = (Rule(name="read", effect=Effect.ALLOW, agents=("*",), targets=("*",), operations=("select",)),)
    with pytest.raises(psycopg.OperationalError, match="the startup message changes settings"):
        psycopg.connect(gate.dsn(options=options))
    gate.wait_closed(1)
    assert gate.of(SessionClosed)[0].reason == "its startup message changes settings"
    if "role" not in options:
        control.rules = everything
        psycopg.connect(gate.dsn(options=options)).close()


def test_what_the_target_reads_otherwise_is_not_understood(control: ScriptedControlPlane, gate: RunningGate) -> None:
    control.rules = (
        Rule(
            name="most", effect=Effect.ALLOW, agents=("*",), targets=("*",), hazards=("*",),
            operations=("select", "do", "set"),
        ),
    )  # fmt: skip
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        # No SET that the gate could see.
        connection.execute("DO $$ BEGIN EXECUTE 'SET standard_' || 'conforming_strings = off'; END $$")
        for text in ("SELECT 1", "SELECT '\\'' || (SELECT 1) --'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(text)
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute("SET standard_conforming_strings = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT 1")
