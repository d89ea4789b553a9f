"""What a yes covers later: once, a template n times, a time window; and what it never covers."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from django.db import connection
from django.utils import timezone
from django_scopes import scope

from accounts.models import Agent
from controlplane.authority import Role
from controlplane.errors import Refusal
from policies.approvals import asking
from policies.approvals.actions import Wanted, approve, reject, revoke_grant
from policies.approvals.errors import AskRefused
from policies.approvals.models import ApprovalGrant, ApprovalRequest, ApprovalUse, ApprovalVote
from policies.approvals.settling import reconsider_all
from policies.approvals.terms import GrantScope
from policies.engine import Access, Approval, ApprovalMode, Operation
from targets.models import Target
from tests.policies.approvals.conftest import DELETE, RULE, Site, make_site

T = TypeVar("T")


def granted(site: Site, wanted: Wanted, **changed: Any) -> ApprovalRequest:
    """A deferred request that Ada has granted so."""
    site.flow(scopes=["once", "template", "window"])
    request = site.request(site.defer(**changed))
    return approve(request, acting_user=site.people["ada"], wanted=wanted)


def grant_of(site: Site) -> ApprovalGrant:
    with scope(tenant=site.tenant):
        return ApprovalGrant.objects.get()


def at_once(count: int, call: Callable[[int], T]) -> list[T]:
    """Call it in as many threads, all starting together."""
    together = threading.Barrier(count)

    def run(number: int) -> T:
        try:
            together.wait(20)
            return call(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_once_is_once_for_the_same_operation(acme: Site) -> None:
    request = granted(acme, Wanted())
    first, second = acme.defer(), acme.defer()
    assert (first.approval_id, first.state) == (request.pk, "granted")
    assert (second.approval_id != request.pk, second.state) == (True, "pending")
    assert acme.told("approval_grant.used")[0]["uses_left"] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"operation_sha256": b"o" * 32},
        {"principal": {"name": "reporter", "on_behalf_of": "somebody@acme.example"}},
    ],
)
def test_an_approval_covers_nothing_that_differs(acme: Site, changed: dict[str, Any]) -> None:
    request = granted(acme, Wanted())
    answer = acme.defer(**changed)
    assert (answer.state, answer.approval_id != request.pk) == ("pending", True)


def test_an_approval_is_for_its_target_and_its_agent(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600))
    with scope(tenant=acme.tenant):
        other_target = Target.objects.create(tenant=acme.tenant, name="archive", host="h", database="d")
        other_agent = Agent.objects.create(tenant=acme.tenant, name="helper")
    assert acme.defer(target=other_target).state == "pending"
    assert acme.defer(agent=other_agent).state == "pending"
    assert acme.defer().state == "granted"


def test_a_window_is_for_what_asks_the_same_flow_only(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600))
    acme.flow("security")
    assert acme.defer("DROP TABLE orders", flow="security").state == "pending"
    assert acme.defer("DELETE FROM customers").state == "granted"


def test_a_newly_published_policy_ends_every_grant(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600))
    acme.publish(RULE)
    assert acme.defer().state == "pending"
    reconsider_all(now=timezone.now())
    assert grant_of(acme).end_reason == "the policy has changed"


def test_a_template_covers_so_many_with_other_values_and_nothing_else(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.TEMPLATE, uses=2))
    truncate = Operation(accesses=(Access("truncate", "public.orders"),), template="t1")
    more = Operation(accesses=(Access("delete", "public.customers", ("id",)),), template=DELETE.template)
    assert acme.defer("TRUNCATE orders", operation=truncate).state == "pending"
    assert acme.defer("DELETE FROM customers WHERE id = 1", operation=more).state == "pending"
    states = [acme.defer(f"DELETE FROM orders WHERE id = {number}").state for number in (2, 3, 4)]
    assert states == ["granted", "granted", "pending"]


def test_a_window_ends(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600))
    later = timezone.now() + timedelta(seconds=601)
    assert asking.ask(acme.asked("DELETE FROM a"), now=timezone.now()).state == "granted"
    assert asking.ask(acme.asked("DELETE FROM a"), now=later).state == "pending"


def test_a_grant_that_is_revoked_covers_nothing_more(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600))
    given = grant_of(acme)
    revoke_grant(given, acting_user=acme.people["ada"], reason="enough")
    assert acme.defer().state == "pending"
    with pytest.raises(Refusal):
        revoke_grant(given, acting_user=acme.people["ada"])
    assert acme.told("approval_grant.ended") == [{"reason": "enough"}]


def test_the_narrowest_grant_is_used_first(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.WINDOW, window_seconds=600), text="DELETE FROM a")
    acme.flow()
    with scope(tenant=acme.tenant):
        ApprovalGrant.objects.update(ended_at=timezone.now())
    once = approve(acme.request(acme.defer("DELETE FROM b")), acting_user=acme.people["ada"])
    with scope(tenant=acme.tenant):
        ApprovalGrant.objects.update(ended_at=None)
    assert acme.defer("DELETE FROM b").approval_id == once.pk


def test_the_same_operation_asked_again_is_the_same_use(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.TEMPLATE, uses=2))
    asked = acme.asked("DELETE FROM orders WHERE id = 2")
    answers = [asking.ask(asked, now=timezone.now()) for _ in range(3)]
    assert {answer.state for answer in answers} == {"granted"}
    assert grant_of(acme).uses_left == 1


def test_a_use_is_not_replayed_for_another_operation_of_that_number(acme: Site) -> None:
    granted(acme, Wanted(GrantScope.TEMPLATE, uses=2))
    asked = acme.asked("DELETE FROM orders WHERE id = 2")
    asking.ask(asked, now=timezone.now())
    replayed = acme.ask("DELETE FROM customers", op=asked.op, session_id=asked.session_id)
    assert replayed.state == "void"


def test_a_no_to_a_deferred_operation_stands_while_the_request_would_have(acme: Site) -> None:
    request = acme.request(acme.defer())
    reject(request, acting_user=acme.people["ada"], comment="never")
    again = acme.defer()
    assert (again.approval_id, again.state, again.reason) == (
        request.pk,
        "rejected",
        "rejected by ada@acme.example: never",
    )


def test_a_granted_hold_that_the_gate_has_not_heard_of_is_void_when_the_policy_changes(acme: Site) -> None:
    request = approve(acme.open(), acting_user=acme.people["ada"])
    acme.publish(RULE)
    reconsider_all(now=timezone.now())
    assert acme.again(request).state == "void"


def test_the_flows_condition_approves_by_itself_what_it_is_true_of(acme: Site) -> None:
    acme.flow(auto_approve="'public.orders' in operation.objects && agent.name == 'reporter'")
    answer = acme.ask()
    assert (answer.state, answer.reason) == ("granted", "approved by its flow's condition")
    other = Operation(accesses=(Access("delete", "public.customers"),))
    assert acme.ask("DELETE FROM customers", operation=other).state == "pending"


def test_a_condition_that_fails_asks_people_and_one_that_is_none_is_not_kept(acme: Site) -> None:
    acme.flow(auto_approve="agent.claims.nothing == 'x'")
    assert acme.ask().state == "pending"
    with pytest.raises(Refusal) as refusal:
        acme.flow(auto_approve="agent.name ==")
    assert refusal.value.field == "terms.auto_approve"


def test_an_operation_that_needs_two_flows_needs_all_of_both(acme: Site) -> None:
    acme.person("own", Role.OWNER)
    acme.flow("security", stages=[{"approvers": {"roles": ["owner"]}}], forbid_sponsor=True)
    asked = acme.asked()
    decision = asked.decision
    both = type(decision)(
        effect=decision.effect,
        policy_version=decision.policy_version,
        rule=decision.rule,
        reason=decision.reason,
        approval=decision.approval,
        further_approvals=(Approval(flow="security"),),
    )
    request = acme.open(decision=both)
    assert (request.flow, request.terms["forbid_sponsor"]) == ("writes+security", True)
    assert approve(request, acting_user=acme.people["ada"]).state == "pending"
    assert approve(request, acting_user=acme.people["own"]).state == "granted"


def test_too_many_that_wait_are_refused(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_PENDING", 2)
    acme.open("DELETE FROM a")
    acme.open("DELETE FROM b")
    with pytest.raises(AskRefused) as refused:
        acme.ask("DELETE FROM c")
    assert refused.value.is_busy


def test_ids_of_another_tenant_are_not_there(acme: Site, globex: Site) -> None:
    request = acme.open()
    with scope(tenant=globex.tenant):
        asking.withdraw(request.pk, worker_id=acme.worker.pk, reason="mine", now=timezone.now())
        assert asking.take_decision(request.pk, worker_id=acme.worker.pk, now=timezone.now()) is None
    asking_there = globex.ask(session_id=acme.session_id, op=request.op)
    assert asking_there.approval_id != request.pk
    assert acme.again(request).state == "pending"


class TestAtTheSameMoment:
    """Threads with connections of their own."""

    pytestmark = pytest.mark.django_db(transaction=True)

    @pytest.fixture
    def site(self, transactional_db: None) -> Site:
        return make_site("acme")

    def test_of_n_uses_no_more_than_n_are_taken(self, site: Site) -> None:
        granted(site, Wanted(GrantScope.TEMPLATE, uses=3))
        asked = [site.asked(f"DELETE FROM orders WHERE id = {number}") for number in range(8)]
        answers = at_once(8, lambda number: str(asking.ask(asked[number], now=timezone.now()).state))
        assert answers.count("granted") == 3
        with scope(tenant=site.tenant):
            assert (ApprovalGrant.objects.get().uses_left, ApprovalUse.objects.count()) == (0, 3)

    def test_a_single_use_is_taken_by_one(self, site: Site) -> None:
        granted(site, Wanted())
        asked = [site.asked(session_id=uuid.uuid4()) for _ in range(6)]
        answers = at_once(6, lambda number: str(asking.ask(asked[number], now=timezone.now()).state))
        assert answers.count("granted") == 1

    def test_the_same_deferred_operation_asked_by_many_is_one_request(self, site: Site) -> None:
        asked = [site.asked(mode=ApprovalMode.DEFER, session_id=uuid.uuid4()) for _ in range(6)]
        answers = at_once(6, lambda number: asking.ask(asked[number], now=timezone.now()).approval_id)
        assert len(set(answers)) == 1

    def test_two_approvers_are_two_votes_and_one_grant(self, site: Site) -> None:
        people = [site.people["ada"], site.person("bob"), site.person("cy"), site.person("dee")]
        site.flow(stages=[{"approvers": {"roles": ["approver"]}, "quorum": 2}])
        request = site.open()

        def vote(number: int) -> str:
            try:
                return str(approve(request, acting_user=people[number]).state)
            except Refusal as refusal:
                return refusal.problem

        answers = at_once(4, vote)
        assert answers.count("granted") == 1
        assert answers.count("pending") == 1
        assert sum("granted already" in answer for answer in answers) == 2
        assert len(site.ledger("approval.granted")) == 1

    def test_one_person_in_two_windows_is_one_vote(self, site: Site) -> None:
        site.person("bob")
        site.flow(stages=[{"approvers": {"roles": ["approver"]}, "quorum": 2}])
        request = site.open()

        def vote(_: int) -> str:
            try:
                return str(approve(request, acting_user=site.people["ada"]).state)
            except Refusal as refusal:
                return refusal.problem

        answers = at_once(3, vote)
        assert answers.count("pending") == 1
        assert sum("one person is one vote" in answer for answer in answers) == 2
        with scope(tenant=site.tenant):
            assert ApprovalVote.objects.count() == 1

    def test_yes_and_no_at_once_end_it_one_way(self, site: Site) -> None:
        site.person("bob")
        request = site.open()

        def vote(number: int) -> str:
            try:
                if number:
                    return str(approve(request, acting_user=site.people["ada"]).state)
                return str(reject(request, acting_user=site.people["bob"]).state)
            except Refusal:
                return "too late"

        assert sorted(at_once(2, vote)) in (["granted", "too late"], ["rejected", "too late"])
