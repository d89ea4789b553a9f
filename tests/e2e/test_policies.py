"""Policies on the whole stack as `make demo` runs it: a running session follows, and the past is replayed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.e2e.demo import Demo, eventually, free_port_block, running_demo
from tests.e2e.rest import rest, rows, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AGENT = "support-agent"
SCOPE = {"agents": [AGENT], "targets": ["shop"]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("policies") / "home", free_port_block()) as demo:
        yield demo


def refusal(connection: psycopg.Connection[Any], statement: str) -> str:
    """Why the gate refuses it; empty when it doesn't."""
    try:
        connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return str(error)
    return ""


def is_refused(connection: psycopg.Connection[Any], statement: str, told: str) -> bool:
    """Whether it is, and is told this."""
    return told in refusal(connection, statement)


def seconds_until(ask: Callable[[], bool]) -> float:
    """How long it takes: to be told, for promised is a second, and not to be held against a busy machine."""
    begun = time.monotonic()
    eventually(ask)
    return time.monotonic() - begun


@contextmanager
def a_policy(demo: Demo, name: str) -> Iterator[dict[str, Any]]:
    """A new one, which applies until the end."""
    policy = send(demo, "POST", "policies/", {"name": name, "tenant": "demo"})
    try:
        yield policy
    finally:
        send(demo, "PATCH", f"policies/{policy['id']}/", {"is_active": False})


def publish(demo: Demo, policy: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
    """By way of a draft."""
    draft = {"policy": policy["id"], "scope": SCOPE, "rules": list(rules), "message": "because"}
    kept = send(demo, "POST", "policy-drafts/", draft)
    return send(demo, "POST", f"policy-drafts/{kept['id']}/publish/", {})


def test_a_running_session_follows_a_published_draft_with_scope_and_approval(demo: Demo) -> None:
    delete = "DELETE FROM orders WHERE id = -1"
    asks = {
        "name": "deletes-wait",
        "effect": "require_approval",
        "operations": ["delete"],
        "approval": {"flow": "on-call", "mode": "defer"},
    }
    deny = {"name": "no-deletes", "effect": "deny", "operations": ["delete"], "reason": "nothing is deleted today"}
    with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection, a_policy(demo, "deletes") as policy:
        assert refusal(connection, delete) == ""
        for rule, told in ((asks, "/approvals/"), (deny, "nothing is deleted today")):
            version = publish(demo, policy, rule)
            seconds = seconds_until(partial(is_refused, connection, delete, told))
            print(f"\n{version['policy_name']}@{version['number']} was followed within {seconds:.3f} s")
            assert refusal(connection, "SELECT 1") == ""
        versions = rows(demo, "policy-versions/", policy=policy["id"])
        first = next(one for one in versions if one["number"] == 1)
        send(demo, "POST", f"policy-versions/{first['id']}/restore/", {"message": "held, not denied"})
        eventually(partial(is_refused, connection, delete, "/approvals/"))
    with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection:
        eventually(lambda: refusal(connection, delete) == "")


def test_the_past_is_replayed_and_a_policy_made_of_it(demo: Demo) -> None:
    with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection:
        for statement in ("SELECT count(*) FROM orders", "UPDATE orders SET status = status WHERE id = 1"):
            connection.execute(statement.encode())
    eventually(lambda: any("SET status = status" in row["text"] for row in rows(demo, "operations/")))
    now = datetime.now(UTC)
    period = {"since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(minutes=1)).isoformat()}
    agent = next(row for row in rows(demo, "agents/") if row["name"] == AGENT)
    suggestion = finished(demo, "policy-suggestions/", {"agent": agent["id"], **period})
    assert any(
        "update" in rule["operations"] and any("orders" in name for name in rule["objects"])
        for rule in suggestion["rules"]
    ), suggestion
    policy = next(row for row in rows(demo, "policies/") if row["name"] == "support")
    same = {"policy": policy["id"], "rules": suggestion["rules"], **period}
    assert finished(demo, "policy-simulations/", same)["result"]["counts"]["newly_denied"] == 0
    narrower = [{**rule, "operations": ["select"]} for rule in suggestion["rules"]]
    result = finished(demo, "policy-simulations/", {**same, "rules": narrower})["result"]
    assert result["counts"]["newly_denied"] >= 1
    assert any("SET status" in shown["text"] for group in result["groups"] for shown in group["examples"])


def finished(demo: Demo, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Begin it, and wait for its end."""
    begun = send(demo, "POST", path, body)

    def told() -> dict[str, Any]:
        with rest(demo) as client:
            answer: dict[str, Any] = client.get(f"{path}{begun['id']}/").json()
        return answer

    eventually(lambda: told()["state"] in {"done", "failed"})
    answer = told()
    assert answer["state"] == "done", answer["problem"]
    return answer
