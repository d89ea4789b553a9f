"""Replaying policies over what was recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from django_scopes import scope

from controlplane.errors import Refusal
from policies.engine import Access, Decision, Effect, Operation
from policies.models import Policy
from policies.simulation.actions import MAX_UNFINISHED, start_simulation, start_suggestion
from policies.simulation.models import Simulation
from sessions import models, replay_tasks, replaying
from sessions.ingest import append_records
from sessions.replay_tasks import replay_simulation, run_forgotten
from tests.sessions.conftest import Site
from tests.sessions.records import ALLOWED, AT, JournalScript, intent, opened

DAY: Final[dict[str, Any]] = {
    "since": datetime.fromtimestamp(AT, tz=UTC) - timedelta(hours=12),
    "until": datetime.fromtimestamp(AT, tz=UTC) + timedelta(hours=12),
}


def test_what_an_operation_was_understood_to_be_is_kept(acme: Site) -> None:
    session = str(acme.session().pk)
    understood = Operation((Access("delete", "public.orders", ("id",)), Access("select", "x\u0000")), ("drop",), "ab")
    journal = JournalScript()
    journal.write(opened(session), intent(session, 1, operation=understood), intent(session, 2))
    append_records(acme.linked, journal.whole())
    with scope(tenant=acme.tenant):
        first, second = models.Operation.objects.order_by("op")
    assert first.facts == {
        "accesses": [["delete", "public.orders", ["id"]], ["select", "x␀", []]],
        "hazards": ["drop"],
        "template": "ab",
    }
    assert second.facts is None


def did(site: Site, *operations: tuple[str, Operation | None], decision: Decision = ALLOWED) -> None:
    """The agent of the site did this, at `AT` and each a second later."""
    session = str(site.session().pk)
    journal = JournalScript()
    journal.write(opened(session))
    for number, (text, operation) in enumerate(operations, start=1):
        journal.write(msgspec.structs.replace(intent(session, number, text, operation=operation), decision=decision))
    append_records(site.linked, journal.whole())


def access(kind: str, name: str) -> Operation:
    """An operation of one access."""
    return Operation((Access(kind, name),))


def simulated(site: Site, *rules: dict[str, Any], **period: Any) -> Simulation:
    """The site's policy as if it said this, replayed over the day of `AT`."""
    with scope(tenant=site.tenant):
        simulation = start_simulation(
            Policy.objects.get(), scope={}, rules=list(rules), acting_user=None, **{**DAY, **period}
        )
        replay_simulation(str(simulation.pk))
        simulation.refresh_from_db()
    return simulation


READ: Final = {"name": "read", "effect": "allow", "agents": ["reporter"], "targets": ["shop"], "operations": ["select"]}


def test_a_draft_is_replayed_over_what_was_done(acme: Site) -> None:
    did(acme, ("SELECT 1", access("select", "public.orders")), ("DELETE 1", access("delete", "public.orders")))
    did(acme, ("DELETE 2", access("delete", "public.orders")), ("unclear", None))
    simulation = simulated(acme, READ)
    assert (simulation.state, simulation.percent, simulation.problem) == ("done", 100, "")
    assert (simulation.result["operations"], simulation.result["left_out"]) == (4, 1)
    [group] = simulation.result["groups"]
    assert (group["difference"], group["agent"], group["target"], group["count"]) == (
        "newly_denied", "reporter", "shop", 2
    )  # fmt: skip
    assert group["rule_before"] == "support/read"
    assert {example["text"] for example in group["examples"]} == {"DELETE 1", "DELETE 2"}


def test_only_the_period_is_replayed_whole_chunks_and_single_rows(acme: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(replaying, "CHUNK_ROWS", 3)
    did(acme, *(("SELECT", access("select", "public.orders")) for _ in range(10)))
    start = datetime.fromtimestamp(AT, tz=UTC)
    for first, last, count in ((0, 20, 10), (3, 6, 3), (1, 2, 1), (20, 30, 0)):
        period: dict[str, Any] = {"since": start + timedelta(seconds=first), "until": start + timedelta(seconds=last)}
        assert simulated(acme, READ, **period).result["operations"] == count


def test_the_newest_of_too_many_are_replayed(acme: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(replaying, "MAX_OPERATIONS", 4)
    did(acme, *((str(number), access("delete", f"public.t{number}")) for number in range(1, 8)))
    [group] = simulated(acme, READ).result["groups"]
    assert [example["text"] for example in group["examples"]] == ["7", "6", "5"]
    assert group["count"] == 4


def test_another_tenants_record_is_not_replayed(acme: Site, globex: Site) -> None:
    did(globex, ("DELETE", access("delete", "public.orders")))
    assert simulated(acme, READ).result["operations"] == 0


def test_a_simulation_says_why_nothing_came_of_it(acme: Site, monkeypatch: Any) -> None:
    def fails(_: Simulation) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(replay_tasks, "replay", fails)
    simulation = simulated(acme, READ)
    assert (simulation.state, simulation.problem) == ("failed", "It took too long. Choose a shorter period.")
    replay_simulation(str(simulation.pk))  # delivered again: it is over
    with scope(tenant=acme.tenant):
        simulation.refresh_from_db()
    assert simulation.state == "failed"


def test_a_run_is_sent_to_the_background_and_found_again_when_that_was_lost(
    acme: Site, monkeypatch: Any, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(replay_simulation, "delay", sent.append)
    monkeypatch.setattr(replay_tasks.make_suggestion, "delay", sent.append)
    with django_capture_on_commit_callbacks(execute=True), scope(tenant=acme.tenant):
        simulation = start_simulation(Policy.objects.get(), scope={}, rules=[READ], acting_user=None, **DAY)
        suggestion = start_suggestion(acme.agent, acting_user=None, **DAY)
    assert sent == [str(simulation.pk), str(suggestion.pk)]
    run_forgotten()
    assert len(sent) == 2  # they have only just begun
    monkeypatch.setattr(replay_tasks, "WAITS_AT_MOST", timedelta(seconds=-1))
    run_forgotten()
    assert sent[2:] == sent[:2]


def test_a_run_wants_a_period_and_waits_its_turn(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        policy = Policy.objects.get()
        for since, until in ((DAY["until"], DAY["since"]), (DAY["since"] - timedelta(days=400), DAY["until"])):
            with pytest.raises(Refusal):
                start_simulation(policy, scope={}, rules=[], acting_user=None, since=since, until=until)
        for _ in range(MAX_UNFINISHED):
            start_simulation(policy, scope={}, rules=[], acting_user=None, **DAY)
        with pytest.raises(Refusal, match="under way"):
            start_simulation(policy, scope={}, rules=[], acting_user=None, **DAY)


def test_the_suggested_policy_allows_what_was_done_and_nothing_that_was_refused(acme: Site) -> None:
    did(acme, ("SELECT 1", access("select", "public.orders")), ("SELECT 2", access("select", "public.items")))
    refused = Decision(effect=Effect.DENY, policy_version="support@1", rule="default deny", reason="no")
    did(acme, ("DROP", access("ddl", "public.orders")), decision=refused)
    with scope(tenant=acme.tenant):
        suggestion = start_suggestion(acme.agent, acting_user=None, **DAY)
        replay_tasks.make_suggestion(str(suggestion.pk))
        suggestion.refresh_from_db()
    assert (suggestion.state, suggestion.observed, suggestion.left_out) == ("done", 2, 0)
    [rule] = suggestion.rules
    assert (rule["operations"], rule["objects"]) == (["select"], ["public.items", "public.orders"])
    [group] = simulated(acme, *suggestion.rules).result["groups"]
    assert (group["difference"], group["examples"][0]["text"]) == ("newly_denied", "DROP")
