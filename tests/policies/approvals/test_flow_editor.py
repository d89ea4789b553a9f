"""The editor of a flow: what it hears while somebody types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django_scopes import scope

from controlplane.authority import Role
from policies.approvals.models import ApprovalFlow
from policies.approvals.terms import parse_terms
from tests.sessions.conftest import Site, make_site
from tests.sessions.people import person, signed_in

STAGE: dict[str, Any] = {"approvers": {"roles": ["admin"]}}


@pytest.fixture
def acme(db: None) -> Site:
    """A tenant."""
    return make_site("acme")


def checked(client: Client, sent: Any) -> Any:
    """The answer."""
    url = reverse("admin:policies_approvalflow_check")
    return client.post(url, json.dumps(sent), content_type="application/json")


def test_both_views_say_the_same(acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    document = {"stages": [{**STAGE, "quorum": 1}], "expires_after_seconds": 1800, "break_glass": {"roles": ["owner"]}}
    by_form = checked(client, {"document": document}).json()
    by_text = checked(client, {"yaml": by_form["yaml"]}).json()
    assert by_text == by_form
    assert (by_form["document"], by_form["findings"], by_form["warnings"]) == (document, [], [])


@pytest.mark.parametrize(
    ("sent", "field", "is_shown"),
    [
        ({"yaml": "stages: ["}, "line", False),
        ({"yaml": "stages: [{approvers: {roles: [admin]}, quorum: 0}]"}, "stages[0].quorum", True),
        ({"yaml": "stages: [{approvers: {roles: [viewer]}}]"}, "stages[0].approvers.roles", True),
        ({"document": {"stages": []}}, "stages", True),
        ({"document": {"stages": [STAGE], "surprise": 1}}, "terms", True),
        ({"document": {"stages": [{**STAGE, "quorum": "two"}]}}, "stages[0].quorum", True),
        ({"document": {"stages": [STAGE], "auto_approve": "1 +"}}, "auto_approve", True),
        ({"document": {"stages": [STAGE], "escalation": {"after_seconds": 99999, **STAGE}}}, "escalation.after_", True),
        ({"document": {"stages": 5}}, "stages", False),
        ({"document": {"stages": [5]}}, "stages[0]", False),
        ({"document": {"stages": [{"approvers": "bob"}]}}, "stages[0].approvers", False),
        ({"document": None}, "terms", False),
        ([], "the document", False),
    ],
)
def test_what_is_wrong_is_told_with_its_field_and_nothing_is_kept(
    acme: Site, sent: Any, field: str, is_shown: bool
) -> None:
    answer = checked(signed_in(person(acme.tenant, Role.ADMIN)), sent)
    assert answer.status_code == 200
    (finding,) = answer.json()["findings"]
    assert finding["field"].startswith(field), finding
    assert finding["problem"]
    assert finding["fix"]
    assert (answer.json()["document"] is not None) is is_shown
    with scope(tenant=acme.tenant):
        assert not ApprovalFlow.objects.exists()


def test_approvers_who_are_not_there_are_told_to_whoever_manages_the_tenant_and_refuse_nothing(acme: Site) -> None:
    boss = person(acme.tenant, Role.ADMIN)
    client = signed_in(boss)
    stages = [
        {"approvers": {"people": [boss.email, "nobody@acme.example"], "groups": ["dba"]}, "quorum": 2},
        {"approvers": {"roles": ["admin"]}},
    ]
    sent = {"document": {"stages": stages}, "tenant": str(acme.tenant.pk)}
    told = checked(client, sent).json()
    assert told["findings"] == []
    assert {one["field"] for one in told["warnings"]} == {
        "stages[0].approvers.people", "stages[0].approvers.groups", "stages[0].quorum"
    }  # fmt: skip
    outsider = signed_in(person(make_site("globex").tenant, Role.ADMIN))
    assert checked(outsider, sent).json()["warnings"] == []


def test_only_who_manages_flows_asks(acme: Site) -> None:
    for role, status in ((Role.OWNER, 200), (Role.ADMIN, 200), (Role.APPROVER, 403), (Role.VIEWER, 403)):
        assert checked(signed_in(person(acme.tenant, role)), {"yaml": "stages: []"}).status_code == status
    assert checked(Client(), {"yaml": ""}).status_code == 302


def test_what_the_form_sends_is_kept_as_the_same_terms(acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    values = {"tenant": str(acme.tenant.pk), "name": "reads", "description": "", "is_active": "on"}
    sent = json.dumps({"stages": [{"name": "first", **STAGE}], "scopes": ["once", "window"]})
    page = client.get("/admin/policies/approvalflow/add/").content.decode()
    assert 'x-data="flowTerms"' in page
    assert client.post("/admin/policies/approvalflow/add/", {**values, "terms": sent}).status_code == 302
    with scope(tenant=acme.tenant):
        flow = ApprovalFlow.objects.get(name="reads")
    assert parse_terms(flow.terms).stages[0].name == "first"
    page = client.get(f"/admin/policies/approvalflow/{flow.pk}/change/").content.decode()
    assert f'data-tenant="{acme.tenant.pk}"' in page
