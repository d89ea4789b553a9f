"""Who may say yes, how votes count, and what else becomes of a request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from django_scopes import scope

from accounts.federation.actions import save_provider
from accounts.federation.models import FederatedIdentity, IdentityProvider
from accounts.models import Agent
from accounts.scim.models import ScimGroup, ScimMember, ScimUser
from controlplane.authority import ROLE_POWERS, Power, Role
from controlplane.errors import Refusal
from policies.approvals import access, signals
from policies.approvals.actions import Wanted, approve, break_glass, reject
from policies.approvals.models import ApprovalGrant, ApprovalRequest, ApprovalState, ApprovalVote
from policies.approvals.settling import reconsider_all, reconsider_due
from policies.approvals.terms import VOTING_ROLES, GrantScope
from policies.engine import ApprovalMode
from proxyworker import contract
from tests.policies.approvals.conftest import Site, ago


def state_of(site: Site, request: ApprovalRequest) -> str:
    with scope(tenant=site.tenant):
        return ApprovalRequest.objects.get(pk=request.pk).state


def refused(site: Site, request: ApprovalRequest, name: str, **kwargs: Any) -> str:
    """Why this person's yes isn't taken."""
    with pytest.raises(Refusal) as refusal:
        approve(request, acting_user=site.people[name], **kwargs)
    return refusal.value.problem


def test_the_states_are_the_contracts_and_the_voting_roles_those_with_the_power() -> None:
    assert set(ApprovalState.values) == {state.value for state in contract.ApprovalState}
    assert {role for role in Role if Power.APPROVE in ROLE_POWERS[role]} == set(VOTING_ROLES)


def test_one_yes_lets_it_pass_and_the_ledger_has_all_of_it(acme: Site) -> None:
    request = acme.open()
    approved = approve(request, acting_user=acme.person("ada"), comment="go on")
    assert (approved.state, approved.decision_reason) == ("granted", "approved by ada@acme.example (go on)")
    assert [entry.actor for entry in acme.ledger("approval.voted")] == ["ada@acme.example"]
    assert acme.ledger("approval.granted")[0].before == {"state": "pending"}
    assert acme.told("approval.requested")[0]["binding"] == bytes(request.binding).hex()


def test_no_text_of_an_operation_is_in_the_ledger(acme: Site) -> None:
    request = acme.open("DELETE FROM orders WHERE card = '4111 1111 1111 1111'")
    approve(request, acting_user=acme.person("ada"))
    told = [str(entry.after) for kind in ("requested", "voted", "granted") for entry in acme.ledger(f"approval.{kind}")]
    assert len(told) == 3
    assert not any("4111" in one for one in told)


def test_a_no_ends_it_and_the_agent_is_told_why(acme: Site) -> None:
    request = reject(acme.open(), acting_user=acme.person("ada"), comment="not on a Monday")
    assert (request.state, request.decision_reason) == ("rejected", "rejected by ada@acme.example: not on a Monday")
    assert "rejected already" in refused(acme, request, "ada")


def test_nobody_votes_twice(acme: Site) -> None:
    acme.flow(stages=[{"approvers": {"roles": ["approver"]}, "quorum": 2}])
    acme.person("bob")
    request = acme.open()
    assert approve(request, acting_user=acme.people["ada"]).state == "pending"
    assert "one person is one vote" in refused(acme, request, "ada")
    with pytest.raises(Refusal, match="one person is one vote"):
        reject(request, acting_user=acme.people["ada"])
    assert approve(request, acting_user=acme.people["bob"]).state == "granted"


@pytest.mark.parametrize(
    "principal",
    [
        {"on_behalf_of": "ada@acme.example"},
        {"on_behalf_of": "Ada@ACME.example"},
        {"on_behalf_of": "subject-of-ada"},
        {"actors": ["planner", "actor:ada@acme.example"]},
    ],
)
def test_nobody_approves_what_was_asked_on_their_behalf(acme: Site, principal: dict[str, Any]) -> None:
    acme.person("bob")
    with scope(tenant=acme.tenant):
        provider = IdentityProvider(tenant=acme.tenant, slug="idp", name="IdP", issuer="https://idp.example")
        provider.client_id = "x"
        save_provider(provider, acting_user=None, secret="s", mappings=[])
        FederatedIdentity.objects.create(
            tenant=acme.tenant, provider=provider, subject="subject-of-ada", user=acme.people["ada"]
        )
    request = acme.open(principal={"name": "reporter", **principal})
    assert "nobody approves their own" in refused(acme, request, "ada")
    assert approve(request, acting_user=acme.people["bob"]).state == "granted"


def test_neither_sponsor_nor_author_approve_where_the_flow_forbids_it(acme: Site) -> None:
    acme.person("bob")
    acme.person("cy")
    with scope(tenant=acme.tenant):
        Agent.objects.update(sponsor=acme.people["ada"])
        acme.agent.refresh_from_db()
    acme.publish(by=acme.people["bob"])
    acme.flow(forbid_sponsor=True, forbid_author=True)
    request = acme.open()
    assert "sponsor" in refused(acme, request, "ada")
    assert "published the rule" in refused(acme, request, "bob")
    assert approve(request, acting_user=acme.people["cy"]).state == "granted"
    acme.flow()
    assert approve(acme.open(), acting_user=acme.people["ada"]).state == "granted"


def test_whoever_issued_the_agents_token_is_as_its_sponsor(acme: Site) -> None:
    acme.person("bob")
    principal = {"name": "reporter", "issued_by": ["Ada@acme.example"]}
    acme.flow(forbid_sponsor=True)
    request = acme.open(principal=principal)
    assert "issued the agent's token" in refused(acme, request, "ada")
    assert approve(request, acting_user=acme.people["bob"]).state == "granted"
    acme.flow()
    assert approve(acme.open(principal=principal), acting_user=acme.people["ada"]).state == "granted"


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.VIEWER])
def test_who_may_only_read_does_not_vote_though_the_flow_names_them(acme: Site, role: Role) -> None:
    acme.person("eve", role)
    acme.flow(stages=[{"approvers": {"people": ["eve@acme.example"], "roles": ["approver"]}}])
    assert "role doesn't permit" in refused(acme, acme.open(), "eve")


def test_a_role_alone_is_not_enough_where_the_flow_asks_others(acme: Site) -> None:
    acme.person("bob", Role.OWNER)
    request = acme.open()
    assert "stage 1" in refused(acme, request, "bob")


def test_approvers_by_a_group_of_the_provider_or_the_directory(acme: Site) -> None:
    for name in ("bob", "cy", "dee"):
        acme.person(name)
    with scope(tenant=acme.tenant):
        provider = IdentityProvider(tenant=acme.tenant, slug="idp", name="IdP", issuer="https://idp.example")
        provider.client_id = "x"
        save_provider(provider, acting_user=None, secret="s", mappings=[])
        FederatedIdentity.objects.create(
            tenant=acme.tenant, provider=provider, subject="b", user=acme.people["bob"], groups=["dba"]
        )
        member = ScimUser.objects.create(tenant=acme.tenant, user=acme.people["cy"], user_name="cy@acme.example")
        group = ScimGroup.objects.create(tenant=acme.tenant, display_name="dba")
        ScimMember.objects.create(tenant=acme.tenant, group=group, member=member)
    acme.flow(stages=[{"approvers": {"groups": ["dba"]}, "quorum": 2}])
    request = acme.open()
    with scope(tenant=acme.tenant):
        assert access.people_asked(request) == ["bob@acme.example", "cy@acme.example"]
    refused(acme, request, "dee")
    approve(request, acting_user=acme.people["bob"])
    assert approve(request, acting_user=acme.people["cy"]).state == "granted"


def test_the_groups_of_a_provider_that_is_off_count_no_more(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        provider = IdentityProvider(tenant=acme.tenant, slug="idp", name="IdP", issuer="https://idp.example")
        provider.client_id = "x"
        save_provider(provider, acting_user=None, secret="s", mappings=[])
        FederatedIdentity.objects.create(
            tenant=acme.tenant, provider=provider, subject="b", user=acme.people["ada"], groups=["dba"]
        )
        acme.flow(stages=[{"approvers": {"groups": ["dba"], "roles": ["owner"]}}])
        acme.person("own", Role.OWNER)
        request = acme.open()
        provider.is_active = False
        save_provider(provider, acting_user=None)
    refused(acme, request, "ada")


def test_stages_are_asked_one_after_the_other(acme: Site) -> None:
    acme.person("bob", Role.ADMIN)
    acme.flow(stages=[{"approvers": {"roles": ["approver"]}}, {"approvers": {"roles": ["admin"]}, "name": "security"}])
    seen: list[int] = []

    def note(request: ApprovalRequest, **_: Any) -> None:
        seen.append(request.stage)

    signals.advanced.connect(note)
    try:
        request = acme.open()
        assert "stage 1" in refused(acme, request, "bob")
        after_first = approve(request, acting_user=acme.people["ada"])
        assert (after_first.state, after_first.stage, seen) == ("pending", 1, [1])
        assert approve(request, acting_user=acme.people["bob"]).state == "granted"
    finally:
        signals.advanced.disconnect(note)


def test_the_vote_of_somebody_who_was_removed_meanwhile_no_longer_counts(acme: Site) -> None:
    for name in ("bob", "cy"):
        acme.person(name)
    acme.flow(stages=[{"approvers": {"roles": ["approver"]}, "quorum": 2}])
    request = acme.open()
    approve(request, acting_user=acme.people["ada"])
    acme.remove("ada")
    assert approve(request, acting_user=acme.people["bob"]).state == "pending"
    assert approve(request, acting_user=acme.people["cy"]).state == "granted"
    assert "ada" not in acme.told("approval.granted")[0]["reason"]


def test_when_nobody_is_left_who_could_approve_more_are_asked_and_else_it_expires(acme: Site) -> None:
    acme.person("own", Role.OWNER)
    acme.flow(escalation={"after_seconds": 600, "approvers": {"roles": ["owner"]}})
    request = acme.open()
    acme.remove("ada")
    reconsider_all(now=timezone.now())
    assert state_of(acme, request) == "pending"
    assert acme.told("approval.escalated")[0] == {"why": "nobody was left to decide"}
    acme.remove("own")
    reconsider_all(now=timezone.now())
    assert state_of(acme, request) == "expired"
    assert acme.told("approval.expired")[0]["reason"] == "nobody is left who could approve it"


def test_without_any_possible_approver_a_request_is_expired_as_soon_as_it_is_made(acme: Site) -> None:
    acme.flow(stages=[{"approvers": {"people": ["nobody@acme.example"]}}])
    answer = acme.ask()
    assert (answer.state, answer.reason) == ("expired", "nobody is left who could approve it")


def test_two_stages_of_the_same_single_person_can_never_pass(acme: Site) -> None:
    acme.flow(stages=[{"approvers": {"roles": ["approver"]}}] * 2)
    assert acme.ask().state == "expired"
    acme.person("bob")
    assert acme.ask().state == "pending"


def test_after_a_while_more_people_are_asked_once(acme: Site) -> None:
    acme.person("own", Role.OWNER)
    acme.flow(escalation={"after_seconds": 60, "approvers": {"roles": ["owner"]}})
    request = acme.open()
    assert reconsider_due(now=timezone.now()) == 0
    refused(acme, request, "own")
    acme.set(request, escalates_at=ago(seconds=1))
    for _ in range(2):
        reconsider_due(now=timezone.now())
    assert len(acme.ledger("approval.escalated")) == 1
    assert approve(request, acting_user=acme.people["own"]).state == "granted"


def test_what_nobody_decided_expires_once(acme: Site) -> None:
    request = acme.open()
    acme.set(request, expires_at=ago(seconds=1))
    for _ in range(2):
        reconsider_due(now=timezone.now())
    assert (state_of(acme, request), len(acme.ledger("approval.expired"))) == ("expired", 1)


def test_a_vote_that_comes_after_the_expiry_is_too_late_though_no_task_has_run(acme: Site) -> None:
    request = acme.open()
    acme.set(request, expires_at=ago(seconds=0.001))
    assert "expired already" in refused(acme, request, "ada")
    assert state_of(acme, request) == "expired"


def test_a_newly_published_policy_voids_what_waits(acme: Site) -> None:
    request = acme.open()
    acme.publish()
    assert "void already" in refused(acme, request, "ada")
    assert state_of(acme, request) == "void"


@pytest.mark.parametrize("decided", ["granted", "rejected", "expired", "withdrawn"])
def test_nothing_is_decided_twice(acme: Site, decided: str) -> None:
    request = acme.open()
    acme.set(request, state=decided)
    refused(acme, request, "ada")
    with pytest.raises(Refusal):
        reject(request, acting_user=acme.people["ada"])
    assert state_of(acme, request) == decided


def test_people_of_another_tenant_do_not_vote(acme: Site, globex: Site) -> None:
    request = acme.open()
    with pytest.raises(Refusal, match="role doesn't permit"):
        approve(request, acting_user=globex.people["ada"])
    with scope(tenant=globex.tenant):
        assert not ApprovalRequest.objects.filter(pk=request.pk).exists()
        assert access.requests_waiting_for(globex.people["ada"]) == []


def test_a_vote_is_neither_changed_nor_deleted(acme: Site) -> None:
    approve(acme.open(), acting_user=acme.people["ada"])
    with scope(tenant=acme.tenant):
        for statement in ("UPDATE {} SET verdict = 'reject'", "DELETE FROM {}"):
            refused_by_grants = pytest.raises(DatabaseError, match="permission denied")
            with refused_by_grants, transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement.format(ApprovalVote._meta.db_table))


class TestGlass:
    """Break-glass."""

    def test_whom_the_flow_names_lets_it_pass_alone_with_a_reason_and_all_are_told(self, acme: Site) -> None:
        acme.person("own", Role.OWNER)
        acme.flow(break_glass={"roles": ["owner"]})
        seen: list[str] = []

        def note(vote: ApprovalVote, **_: Any) -> None:
            seen.append(vote.comment)

        signals.glass_broken.connect(note)
        try:
            request = acme.open()
            with pytest.raises(Refusal, match="doesn't let you"):
                break_glass(request, acting_user=acme.people["ada"], reason="fire")
            with pytest.raises(Refusal, match="reason"):
                break_glass(request, acting_user=acme.people["own"], reason=" ")
            passed = break_glass(request, acting_user=acme.people["own"], reason="fire")
        finally:
            signals.glass_broken.disconnect(note)
        assert (passed.state, passed.is_break_glass, seen) == ("granted", True, ["fire"])
        assert passed.decision_reason == "passed by break-glass of own@acme.example (fire)"

    def test_a_flow_without_it_has_none(self, acme: Site) -> None:
        with pytest.raises(Refusal, match="no break-glass"):
            break_glass(acme.open(), acting_user=acme.people["ada"], reason="fire")

    def test_not_even_then_for_oneself(self, acme: Site) -> None:
        acme.person("bob")
        acme.flow(break_glass={"roles": ["approver"]})
        request = acme.open(principal={"name": "reporter", "on_behalf_of": "ada@acme.example"})
        with pytest.raises(Refusal, match="nobody approves their own"):
            break_glass(request, acting_user=acme.people["ada"], reason="fire")

    def test_it_is_for_those_too_who_have_voted_in_a_stage(self, acme: Site) -> None:
        acme.person("bob")
        acme.flow(stages=[{"approvers": {"roles": ["approver"]}, "quorum": 2}], break_glass={"roles": ["approver"]})
        request = acme.open()
        approve(request, acting_user=acme.people["ada"])
        assert break_glass(request, acting_user=acme.people["ada"], reason="fire").state == "granted"


class TestWhatIsGranted:
    """The scope of a grant is what all who said yes grant, and what the flow offers."""

    def test_it_is_the_least_that_all_of_them_grant(self, acme: Site) -> None:
        acme.person("bob")
        stages = [{"approvers": {"roles": ["approver"]}, "quorum": 2}]
        acme.flow(stages=stages, scopes=["once", "template", "window"])
        request = acme.open()
        approve(request, acting_user=acme.people["ada"], wanted=Wanted(GrantScope.WINDOW, window_seconds=600))
        approve(request, acting_user=acme.people["bob"], wanted=Wanted(GrantScope.TEMPLATE, uses=3))
        with scope(tenant=acme.tenant):
            given = ApprovalGrant.objects.get()
        assert (given.scope, given.uses) == ("template", 2)  # the held operation is the first of the three

    @pytest.mark.parametrize(
        ("wanted", "field"),
        [
            (Wanted(GrantScope.WINDOW, window_seconds=600), "scope"),
            (Wanted(GrantScope.TEMPLATE, uses=11), "uses"),
            (Wanted(GrantScope.TEMPLATE, uses=0), "uses"),
        ],
    )
    def test_more_than_the_flow_offers_is_refused(self, acme: Site, wanted: Wanted, field: str) -> None:
        acme.flow(scopes=["template"])
        with pytest.raises(Refusal) as refusal:
            approve(acme.open(), acting_user=acme.people["ada"], wanted=wanted)
        assert refusal.value.field == field

    def test_a_held_operation_granted_once_leaves_nothing(self, acme: Site) -> None:
        approve(acme.open(), acting_user=acme.people["ada"])
        with scope(tenant=acme.tenant):
            assert not ApprovalGrant.objects.exists()


def test_a_person_sees_what_waits_for_them_and_why_the_rest_does_not(acme: Site) -> None:
    acme.person("bob")
    first, second = (
        acme.open("DELETE FROM a"),
        acme.open("DELETE FROM b", principal={"on_behalf_of": "bob@acme.example"}),
    )
    with scope(tenant=acme.tenant):
        assert access.requests_waiting_for(acme.people["ada"]) == [first, second]
        assert access.requests_waiting_for(acme.people["bob"]) == [first]
        view = access.view_for(second, acme.people["bob"])
        assert (view.may_vote, view.stages[0].approvers) == (False, ("ada@acme.example",))
        counts, newest = access.history_of(acme.agent)
        assert (counts, newest) == ({"pending": 2}, [second, first])
        assert access.flows_with_approvers(acme.tenant.pk) == {"writes": True}


def test_a_hold_expires_when_the_rule_or_the_session_says_so(acme: Site) -> None:
    soon = timezone.now() + timedelta(seconds=90)
    assert acme.ask(session_expires_at=soon).expires_at == soon
    assert acme.ask(hold_seconds=60).expires_at < timezone.now() + timedelta(seconds=61)
    assert acme.ask(hold_seconds=60, mode=ApprovalMode.DEFER).expires_at > timezone.now() + timedelta(seconds=3500)
