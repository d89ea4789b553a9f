"""What a flow may say, by REST, in the admin and by apply; what several flows say together; how votes are counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.test import Client
from django_scopes import scope
from hypothesis import given
from hypothesis import strategies as st

from controlplane.authority import Role
from controlplane.errors import Refusal
from policies.approvals.models import ApprovalFlow
from policies.approvals.tally import count
from policies.approvals.terms import Approvers, Escalation, GrantScope, Stage, Terms, merge_terms, parse_terms, told
from tests.policies.approvals.conftest import Site

STAGE: dict[str, Any] = {"approvers": {"roles": ["approver"]}}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "terms"),
        ({"stages": []}, "terms.stages"),
        ({"stages": [STAGE], "surprise": 1}, "terms"),
        ({"stages": [{"approvers": {}}]}, "terms.stages[0].approvers"),
        ({"stages": [STAGE, {"approvers": {"roles": ["auditor"]}}]}, "terms.stages[1].approvers.roles"),
        ({"stages": [{"approvers": {"people": ["Ada@acme.example"]}}]}, "terms.stages[0].approvers.people"),
        ({"stages": [{"approvers": {"groups": [" "]}}]}, "terms.stages[0].approvers.groups"),
        ({"stages": [{**STAGE, "quorum": 0}]}, "terms.stages[0].quorum"),
        ({"stages": [STAGE], "expires_after_seconds": 5}, "terms.expires_after_seconds"),
        ({"stages": [STAGE], "max_window_seconds": 10**6}, "terms.max_window_seconds"),
        ({"stages": [STAGE], "break_glass": {}}, "terms.break_glass"),
        (
            {"stages": [STAGE], "escalation": {"after_seconds": 9_999, "approvers": {"roles": ["owner"]}}},
            "terms.escalation.after_seconds",
        ),
        ({"stages": [STAGE], "scopes": ["forever"]}, "terms"),
    ],
)
def test_terms_that_make_no_sense_are_refused_with_their_field(document: Any, field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_terms(document)
    assert refusal.value.field == field
    assert refusal.value.fix


def test_terms_come_back_as_they_were_written() -> None:
    terms = Terms(
        stages=(Stage(approvers=Approvers(groups=("dba",)), quorum=2, name="data"),),
        escalation=Escalation(after_seconds=60, approvers=Approvers(people=("ada@acme.example",))),
        scopes=(GrantScope.WINDOW,),
        forbid_author=True,
    )
    assert parse_terms(yaml.safe_load(yaml.safe_dump(told(terms)))) == terms


def test_several_flows_together_are_as_strict_as_the_strictest() -> None:
    stage = Stage(approvers=Approvers(roles=("approver",)))
    everybody = Approvers(roles=("owner",))
    lax = Terms(stages=(stage,), auto_approve="true", break_glass=everybody, scopes=(GrantScope.WINDOW,), max_uses=20)
    strict = Terms(stages=(stage,), forbid_sponsor=True, expires_after_seconds=60)
    for both in (merge_terms([lax, strict]), merge_terms([strict, lax])):
        assert (len(both.stages), both.forbid_sponsor, both.expires_after_seconds, both.max_uses) == (2, True, 60, 10)
        assert (both.auto_approve, both.break_glass, both.scopes) == ("", None, ())
    assert merge_terms([lax]) is lax


PEOPLE = [UUID(int=number) for number in range(6)]


@given(
    quorums=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    data=st.data(),
)
def test_a_request_can_pass_exactly_when_some_people_voting_would_pass_it(quorums: list[int], data: Any) -> None:
    """Against trying out every assignment of the people left to the stages."""
    electors = [frozenset(data.draw(st.sets(st.sampled_from(PEOPLE)))) for _ in quorums]
    voters = data.draw(st.dictionaries(st.sampled_from(PEOPLE), st.integers(0, len(quorums) - 1), max_size=4))
    tally = count(quorums, electors=electors, approvals=voters)

    def passes(left: list[UUID], votes: dict[UUID, int]) -> bool:
        if count(quorums, electors=electors, approvals=votes).is_passed:
            return True
        if not left:
            return False
        person, *others = left
        options = [stage for stage in range(len(quorums)) if person in electors[stage]]
        return passes(others, votes) or any(passes(others, {**votes, person: stage}) for stage in options)

    assert tally.can_pass is passes([one for one in PEOPLE if one not in voters], voters)
    assert tally.is_passed is all(yes >= needed for yes, needed in zip(tally.yes, tally.needed, strict=True))


def test_the_documented_flow_is_applied_and_applied_again_changes_nothing(
    acme: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("docs/approvals.md").read_text()
    found = re.search(r"```yaml\n(kind: ApprovalFlow.*?)```", text, re.DOTALL)
    assert found
    path = tmp_path / "flow.yaml"
    path.write_text(found[1])
    for _ in range(2):
        call_command("apply", file=[path])
    assert len(acme.ledger("approval_flow.changed")) == 1
    path.write_text(found[1].replace("quorum: 2", "quorum: 0"))
    with pytest.raises(CommandError, match=r"stages\[0\].quorum"):
        call_command("apply", file=[path])
    with scope(tenant=acme.tenant):
        terms = parse_terms(ApprovalFlow.objects.get(name="writes").terms)
    assert [stage.quorum for stage in terms.stages] == [2, 1]
    assert terms.break_glass == Approvers(roles=("owner",))
    fields = set(re.findall(r"`([a-z_]+)`", text.partition("| --- | --- | --- |")[2].partition("\n\n")[0]))
    assert set(Terms.__struct_fields__) <= fields


def browser(site: Site) -> Client:
    client = Client()
    client.force_login(site.person("boss", Role.ADMIN))
    return client


def test_a_flow_is_made_in_the_admin_and_what_is_wrong_with_it_stands_in_the_form(acme: Site) -> None:
    client, url = browser(acme), "/admin/policies/approvalflow/add/"
    values = {"tenant": str(acme.tenant.pk), "name": "reads", "description": "", "is_active": "on"}
    for text, told_there in (("stages: [", "line"), ("stages: []", "terms.stages"), ("x: 1", "terms")):
        page = client.post(url, {**values, "terms": text})
        assert page.status_code == 200
        assert told_there in page.content.decode()
    assert client.post(url, {**values, "terms": "stages: [{approvers: {roles: [owner]}}]"}).status_code == 302
    with scope(tenant=acme.tenant):
        assert ApprovalFlow.objects.get(name="reads").terms["stages"][0]["approvers"] == {"roles": ["owner"]}
    assert acme.ledger("approval_flow.created")[-1].actor == "boss@acme.example"


def test_rest_names_the_field_that_is_wrong(acme: Site) -> None:
    body = {"tenant": "acme", "name": "reads", "terms": {"stages": [{**STAGE, "quorum": 99}]}}
    answer = browser(acme).post("/api/v1/approval-flows/", body, content_type="application/json")
    assert answer.status_code in {400, 409}
    assert "stages[0].quorum" in answer.content.decode()


def test_rest_says_why_the_caller_may_not_vote(acme: Site) -> None:
    request = acme.open()
    client = browser(acme)
    url = f"/api/v1/approval-requests/{request.pk}/"
    assert "stage 1" in client.get(url).json()["objection"]
    answer = client.post(f"{url}approve/", {}, content_type="application/json")
    assert answer.status_code == 409
    assert "stage 1" in answer.content.decode()
