"""The pages of policies: the editor's two views, drafts and their review, versions, simulations and suggestions."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_scopes import scope

from controlplane.authority import Role
from policies.actions import propose_draft, publish_version, save_draft
from policies.documents import load_document
from policies.models import DraftState, Policy, PolicyDraft, PolicyVersion
from policies.simulation.actions import start_simulation, start_suggestion
from policies.simulation.models import Simulation, Suggestion
from tests.sessions.conftest import Site, make_site
from tests.sessions.people import person, signed_in

NESTED: Any = json.loads("[" * 400 + "]" * 400)
READ = {"name": "read", "effect": "allow", "agents": ["reporter"], "targets": ["shop"], "operations": ["select"]}


@pytest.fixture
def acme(db: None) -> Site:
    """A tenant with agent "reporter", target "shop" and policy "support"."""
    return make_site("acme")


@pytest.fixture
def policy(acme: Site) -> Policy:
    """It is published once."""
    with scope(tenant=acme.tenant):
        return Policy.objects.select_related("tenant", "current").get()


def page(name: str, row: Any) -> str:
    """An admin page of the row."""
    return reverse(f"admin:policies_{name}", args=[row.pk])


def checked(client: Client, policy: Policy, sent: Any) -> Any:
    """What the editor hears of it."""
    return client.post(page("check", policy), json.dumps(sent), content_type="application/json")


def edited(client: Client, policy: Policy, sent: Any, do: str, message: str = "because") -> Any:
    """The answer to the editor's form."""
    where = page("policy_edit_rules", policy)
    return client.post(where, {"sent": json.dumps(sent), "do": do, "message": message})


def draft_of(policy: Policy, author: Any) -> PolicyDraft:
    """A draft of reading alone."""
    with scope(tenant=policy.tenant):
        draft = PolicyDraft(policy=policy)
        save_draft(draft, scope={}, rules=[READ], message="less", acting_user=author)
    return draft


def test_both_views_say_the_same(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    document = {"scope": {"targets": ["shop"]}, "rules": [READ]}
    by_form = checked(client, policy, {"document": document}).json()
    by_text = checked(client, policy, {"yaml": by_form["yaml"]}).json()
    assert load_document(by_form["yaml"]) == document
    assert (by_form["document"], by_form["findings"]) == (document, [])
    assert by_text == by_form
    assert {"+  operations: [select]", "-- name: never"} <= set(by_form["diff"])


@pytest.mark.parametrize(
    ("sent", "field", "line"),
    [
        ({"yaml": "rules:\n- name: a\n  effect: allow\n  agents: [nobody]\n  targets: [shop]\n"}, "rules[0].agents", 4),
        ({"yaml": "- name: a\n  effect: maybe\n  agents: ['*']\n  targets: ['*']\n"}, "rules[0].effect", 2),
        ({"yaml": "rules: [\n"}, "line 2, column 1", None),
        ({"yaml": "rules: 5"}, "rules", None),
        ({"yaml": "surprise: 5"}, "surprise", None),
        ({"document": {"rules": [{"name": ""}]}}, "rules[0]", 2),
        ({"document": None}, "rules", None),
        ({"yaml": "rules: [{name: !!binary aGk=}]"}, "rules", None),
        ({"yaml": "rules: [{name: .nan}]"}, "rules", None),
        ({"yaml": "rules: [{1: 2}]"}, "line 1", None),
        ({"document": {"rules": [{"name": "\u0000"}]}}, "rules", 2),
        ({"document": {"rules": [{"name": NESTED}]}}, "rules", None),
        ([], "rules", None),
    ],
)
def test_what_is_wrong_is_told_while_typing_and_nothing_is_kept(
    policy: Policy, acme: Site, sent: Any, field: str, line: int | None
) -> None:
    answer = checked(signed_in(person(acme.tenant, Role.ADMIN)), policy, sent)
    assert answer.status_code == 200
    finding = answer.json()["findings"][0]
    assert finding["field"].startswith(field)
    assert finding["line"] == line
    assert finding["fix"]
    with scope(tenant=acme.tenant):
        assert not PolicyDraft.objects.exists()


def test_what_another_policy_denies_is_told_wherever_a_policy_is_looked_at_and_refuses_nothing(
    policy: Policy, acme: Site
) -> None:
    with scope(tenant=acme.tenant):
        other = Policy.objects.create(tenant=acme.tenant, name="nights")
        deny = {"name": "never", "effect": "deny", "agents": ["*"], "targets": ["shop"]}
        publish_version(other, rules=[deny], message="", acting_user=None)
        mine = PolicyDraft(policy=policy)
        save_draft(mine, scope={}, rules=[READ], message="", acting_user=None)
    manager = person(acme.tenant, Role.ADMIN)
    client = signed_in(manager)
    seen = checked(client, policy, {"document": {"rules": [READ]}}).json()
    assert seen["findings"] == []
    assert [(one["field"], one["line"]) for one in seen["warnings"]] == [("rules[0]", 2)]
    assert seen["warnings"][0]["problem"] == "has no effect: 'nights/never' denies all of it"
    asked = client.post(f"/api/v1/policies/{policy.pk}/check/", {"rules": [READ]}, content_type="application/json")
    assert (asked.json()["findings"], len(asked.json()["warnings"])) == ([], 1)
    assert "nights/never" in client.get(page("policydraft_change", mine)).content.decode()
    assert edited(client, policy, {"document": {"scope": {}, "rules": [READ]}}, "publish").status_code == 302
    with scope(tenant=acme.tenant):
        other.is_active = False
        other.save()
    assert checked(client, policy, {"document": {"rules": [READ]}}).json()["warnings"] == []


def test_a_sponsor_who_is_nobody_here_is_refused_and_such_a_person_is_worth_knowing(policy: Policy, acme: Site) -> None:
    manager = person(acme.tenant, Role.ADMIN)
    client = signed_in(manager)
    wrong = {**READ, "sponsors": ["nobody@acme.example", manager.email]}
    found = checked(client, policy, {"document": {"rules": [wrong]}}).json()
    assert [one["problem"] for one in found["findings"]] == ["there is no person 'nobody@acme.example'"]
    named = {**READ, "agents": ["reporter", f"person:{manager.email}", "person:nobody@acme.example"]}
    found = checked(client, policy, {"document": {"rules": [named]}}).json()
    assert (found["findings"], [one["field"] for one in found["warnings"]]) == ([], ["rules[0].agents"])


def test_only_who_manages_policies_opens_the_editor(policy: Policy, acme: Site) -> None:
    globex = make_site("globex")
    for role, status in ((Role.OWNER, 200), (Role.ADMIN, 200), (Role.APPROVER, 403), (Role.VIEWER, 403)):
        client = signed_in(person(acme.tenant, role))
        assert client.get(page("policy_edit_rules", policy)).status_code == status
        assert checked(client, policy, {"yaml": ""}).status_code == status
    outsider = signed_in(person(globex.tenant, Role.OWNER))
    assert outsider.get(page("policy_edit_rules", policy)).status_code in {403, 404}
    assert checked(outsider, policy, {"yaml": ""}).status_code == 404
    assert outsider.get(page("policy_export", policy)).status_code == 404
    assert Client().post(page("check", policy)).status_code == 302


def test_the_editor_publishes_where_no_review_is_wanted(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    assert edited(client, policy, {"document": {"scope": {}, "rules": [READ]}}, "publish").status_code == 302
    with scope(tenant=acme.tenant):
        version = PolicyVersion.objects.get(number=2)
        assert (version.rules, version.message) == ([READ], "because")
        assert PolicyDraft.objects.get().state == DraftState.PUBLISHED


def test_what_cant_be_published_stays_in_the_editor_with_the_reason(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    for text in ("rules: [", "rules: [{name: x, effect: allow, agents: [nobody], targets: ['*']}]"):
        answer = edited(client, policy, {"yaml": text}, "publish")
        assert answer.status_code == 200
        shown = answer.content.decode()
        assert "Not done" in shown
        assert json.dumps(text).replace("'", "\\u0027")[1:-1] in shown or text in shown.replace("&#x27;", "'")
    for broken in ("", "[", '{"document": 5}', '{"document": {"rules": 5}}', '{"document": {"rules": [5]}}'):
        answer = client.post(page("policy_edit_rules", policy), {"sent": broken, "do": "save"})
        assert (answer.status_code, "Not done" in answer.content.decode()) == (200, True)
    with scope(tenant=acme.tenant):
        assert PolicyVersion.objects.count() == 1


def test_a_draft_is_kept_and_goes_on_where_it_was(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    for effect in ("allow", "deny"):
        rules = [{**READ, "effect": effect}]
        assert edited(client, policy, {"document": {"scope": {}, "rules": rules}}, "save").status_code == 302
    with scope(tenant=acme.tenant):
        [draft] = PolicyDraft.objects.all()
    assert draft.rules[0]["effect"] == "deny"
    assert "effect: deny" in client.get(page("policy_edit_rules", policy)).content.decode()


def test_a_draft_is_reviewed_and_published_by_its_pages(policy: Policy, acme: Site) -> None:
    acme.tenant.requires_review = True
    acme.tenant.save()
    ada, bob = person(acme.tenant, Role.ADMIN), person(acme.tenant, Role.APPROVER)
    author, reviewer = signed_in(ada), signed_in(bob)
    edited(author, policy, {"document": {"scope": {}, "rules": [READ]}}, "propose")
    with scope(tenant=acme.tenant):
        draft = PolicyDraft.objects.get()
    assert draft.state == DraftState.PROPOSED
    shown = reviewer.get(page("policydraft_change", draft)).content.decode()
    asked = reviewer.get(page("policydraft_review", draft)).content.decode()
    for text in (shown, asked):
        assert '<span class="is-gone">-- name: never</span>' in text
    assert f'value="{draft.digest}"' in asked
    assert "waits for review" in shown
    assert author.get(page("policydraft_review", draft)).status_code == 403
    assert author.post(page("policydraft_publish", draft)).status_code == 403
    form = {"digest": draft.digest, "verdict": "approve", "comment": ""}
    stale = reviewer.post(page("policydraft_review", draft), {**form, "digest": "0" * 64})
    assert "has changed since you looked" in stale.content.decode()
    assert reviewer.post(page("policydraft_review", draft), form).status_code == 302
    assert reviewer.post(page("policydraft_publish", draft)).status_code == 403
    assert author.post(page("policydraft_publish", draft)).status_code == 302
    with scope(tenant=acme.tenant):
        version = PolicyVersion.objects.get(number=2)
        assert (version.author, version.reviewer) == (ada, bob)


@pytest.mark.parametrize(
    ("act", "state"), [("discard", "discarded"), ("propose", "proposed"), ("publish", "published")]
)
def test_nothing_is_done_by_looking(policy: Policy, acme: Site, act: str, state: str) -> None:
    acme.tenant.requires_review = act == "propose"
    acme.tenant.save()
    admin = person(acme.tenant, Role.ADMIN)
    draft = draft_of(policy, admin)
    client = signed_in(admin)
    for method, wanted in ((client.get, "draft"), (client.post, state)):
        method(page(f"policydraft_{act}", draft))
        with scope(tenant=acme.tenant):
            draft.refresh_from_db()
        assert draft.state == wanted


def test_a_draft_that_is_out_of_date_says_so_and_is_brought_up_to_date(policy: Policy, acme: Site) -> None:
    admin = person(acme.tenant, Role.ADMIN)
    draft = draft_of(policy, admin)
    with scope(tenant=acme.tenant):
        publish_version(policy, rules=[{**READ, "name": "other"}], message="", acting_user=None)
    client = signed_in(admin)
    assert "out of date" in client.get(page("policydraft_change", draft)).content.decode()
    assert client.get(page("policydraft_publish", draft)).status_code == 403
    assert client.post(page("policydraft_update_base", draft)).status_code == 302
    with scope(tenant=acme.tenant):
        draft.refresh_from_db()
        assert not draft.is_out_of_date


def test_going_back_is_a_button_of_earlier_versions(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    with scope(tenant=acme.tenant):
        first = PolicyVersion.objects.get()
        second = publish_version(policy, rules=[READ], message="", acting_user=None)
    assert "Go back to this" not in client.get(page("policyversion_change", second)).content.decode()
    shown = client.get(page("policyversion_change", second)).content.decode()
    assert '<span class="is-gone">-- name: never</span>' in shown
    assert client.post(page("policyversion_restore", first), {"message": "oops"}).status_code == 302
    with scope(tenant=acme.tenant):
        third = PolicyVersion.objects.get(number=3)
    assert (third.document, third.message) == (first.document, "Back to 1: oops")


def test_an_export_is_what_apply_reads(policy: Policy, acme: Site) -> None:
    answer = signed_in(person(acme.tenant, Role.VIEWER)).get(page("policy_export", policy))
    told = load_document(answer.content.decode())
    assert (told["kind"], told["tenant"], told["name"]) == ("Policy", "acme", "support")
    assert [rule["name"] for rule in told["rules"]] == ["read", "never"]
    assert answer["Content-Disposition"] == 'attachment; filename="support.yaml"'


def test_a_simulation_is_begun_from_the_draft_and_shown(policy: Policy, acme: Site) -> None:
    admin = person(acme.tenant, Role.ADMIN)
    draft = draft_of(policy, admin)
    client = signed_in(admin)
    assert client.post(page("policydraft_simulate", draft), {"days": "7"}).status_code == 302
    with scope(tenant=acme.tenant):
        simulation = Simulation.objects.get()
    shown = client.get(page("simulation_change", simulation)).content.decode()
    assert f'data-run="/api/v1/policy-simulations/{simulation.pk}/"' in shown
    session = str(acme.session().pk)
    group = {
        "difference": "newly_denied", "agent": "reporter", "target": "shop", "rule_before": "a", "rule_after": "b",
        "reason": "why", "count": 2, "examples": [{"session": session, "op": 1, "at": 0.0, "text": "<b>DROP</b>"}],
    }  # fmt: skip
    counts = {"newly_denied": 2, "newly_allowed": 0, "newly_held": 0, "other_terms": 0}
    with scope(tenant=acme.tenant):
        simulation.state, simulation.finished_at = "done", timezone.now()
        simulation.result = {"operations": 9, "left_out": 1, "counts": counts, "groups": [group], "in_other_groups": 0}
        simulation.save()
    shown = client.get(page("simulation_change", simulation)).content.decode()
    assert "data-run" not in shown
    assert "&lt;b&gt;DROP&lt;/b&gt;" in shown
    assert "newly denied" in shown
    assert "Simulations" in client.get(page("policydraft_change", draft)).content.decode()
    viewer = signed_in(person(acme.tenant, Role.VIEWER))
    assert viewer.get(page("simulation_change", simulation)).status_code == 403


def test_a_suggestion_becomes_a_draft(policy: Policy, acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    where = reverse("admin:policies_suggestion_suggest")
    assert client.post(where, {"agent": str(acme.agent.pk), "days": "7"}).status_code == 302
    with scope(tenant=acme.tenant):
        suggestion = Suggestion.objects.get()
    assert client.get(page("suggestion_draft", suggestion)).status_code == 403  # it isn't done
    with scope(tenant=acme.tenant):
        suggestion.state, suggestion.rules, suggestion.observed = "done", [READ], 3
        suggestion.save()
    assert "operations: [select]" in client.get(page("suggestion_change", suggestion)).content.decode()
    assert client.post(page("suggestion_draft", suggestion), {"name": "new-one"}).status_code == 302
    with scope(tenant=acme.tenant):
        draft = PolicyDraft.objects.get()
        assert (draft.policy.name, draft.rules, draft.base) == ("new-one", [READ], None)


def test_a_proposed_draft_is_not_proposed_again(policy: Policy, acme: Site) -> None:
    acme.tenant.requires_review = True
    acme.tenant.save()
    admin = person(acme.tenant, Role.ADMIN)
    draft = draft_of(policy, admin)
    with scope(tenant=acme.tenant):
        propose_draft(draft, acting_user=admin)
    assert signed_in(admin).post(page("policydraft_propose", draft)).status_code == 403


@pytest.mark.parametrize("name", ["policydraft", "simulation", "suggestion"])
def test_for_other_tenants_nothing_is_there(policy: Policy, acme: Site, name: str) -> None:
    draft = draft_of(policy, None)
    now = timezone.now()
    period: dict[str, Any] = {"since": now - timedelta(days=1), "until": now, "acting_user": None}
    with scope(tenant=acme.tenant):
        rows = {
            "policydraft": draft,
            "simulation": start_simulation(policy, scope={}, rules=[READ], draft=draft, **period),
            "suggestion": start_suggestion(acme.agent, **period),
        }
    own, foreign = (signed_in(person(site.tenant, Role.OWNER)) for site in (acme, make_site("globex")))
    where, listed = page(f"{name}_change", rows[name]), reverse(f"admin:policies_{name}_changelist")
    assert (own.get(where).status_code, foreign.get(where).status_code) == (200, 404)
    assert where in own.get(listed).content.decode()
    assert where not in foreign.get(listed).content.decode()
