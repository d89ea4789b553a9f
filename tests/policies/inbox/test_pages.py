"""The inbox's pages: what each person sees, what they can do there, and what they are told when they can't."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse
from django_scopes import scope

from accounts.models import User
from controlplane.authority import Role
from policies.approvals.models import ApprovalGrant, ApprovalRequest, ApprovalState
from tests.policies.approvals.conftest import Site, acme, globex

__all__ = ["acme", "globex"]


def browser(user: User) -> Client:
    """Theirs, signed in."""
    client = Client()
    client.force_login(user)
    return client


def state(site: Site, request: ApprovalRequest) -> str:
    """How it stands now."""
    with scope(tenant=site.tenant):
        return ApprovalRequest.objects.get(pk=request.pk).state


def post(client: Client, request: ApprovalRequest, what: str, **form: str) -> str:
    """Press the button, and read the page that follows."""
    answer = client.post(reverse(f"approval-{what}", args=[request.pk]), form, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_what_waits_for_somebody_is_in_their_inbox_and_in_nobody_elses(acme: Site, globex: Site) -> None:
    acme.open("DELETE FROM orders WHERE note = '<b>loud4711</b>'")
    ada = browser(acme.people["ada"]).get(reverse("approvals")).content.decode()
    assert "Waiting for you" in ada
    assert "&lt;b&gt;loud4711&lt;/b&gt;" in ada
    auditor = browser(acme.person("aldo", Role.AUDITOR)).get(reverse("approvals")).content.decode()
    assert "Nothing waits for you" in auditor
    assert "Waiting for others" in auditor
    assert "loud4711" not in browser(globex.people["ada"]).get(reverse("approvals")).content.decode()


def test_an_approval_with_a_comment_lets_it_pass(acme: Site) -> None:
    request = acme.open()
    page = post(browser(acme.people["ada"]), request, "approve", comment="ticket 4711")
    assert "Your approval is on record" in page
    assert state(acme, request) == ApprovalState.GRANTED
    assert acme.told("approval.voted")[0]["comment"] == "ticket 4711"
    assert acme.told("approval.voted")[0]["via"] == "inbox"


def test_a_rejection_is_told(acme: Site) -> None:
    request = acme.open()
    page = post(browser(acme.people["ada"]), request, "reject", comment="not today")
    assert "Rejected by" in page
    assert state(acme, request) == ApprovalState.REJECTED


def test_a_standing_grant_is_given_as_the_form_says(acme: Site) -> None:
    acme.flow(scopes=["once", "template"], max_uses=5)
    request = acme.open()
    post(browser(acme.people["ada"]), request, "approve", scope="template", uses="3")
    with scope(tenant=acme.tenant):
        assert ApprovalGrant.objects.get(request=request).uses == 2  # the held one is the first


@pytest.mark.parametrize("form", [{"scope": "forever"}, {"scope": "template", "uses": "many"}, {"scope": "window"}])
def test_a_form_that_makes_no_sense_changes_nothing(acme: Site, form: dict[str, str]) -> None:
    request = acme.open()
    assert "Not done" in post(browser(acme.people["ada"]), request, "approve", **form)
    assert state(acme, request) == ApprovalState.PENDING


def test_whoever_may_not_decide_is_told_why_and_nothing_happens(acme: Site) -> None:
    request = acme.open()
    auditor = browser(acme.person("aldo", Role.AUDITOR))
    page = auditor.get(reverse("approval", args=[request.pk])).content.decode()
    assert "You can&#x27;t decide this" in page or "You can't decide this" in page
    assert "Not done" in post(auditor, request, "approve")
    assert state(acme, request) == ApprovalState.PENDING


def test_without_the_power_or_the_tenant_there_is_nothing_to_see(acme: Site, globex: Site) -> None:
    request = acme.open()
    url = reverse("approval", args=[request.pk])
    assert browser(globex.people["ada"]).get(url).status_code == 404
    assert browser(globex.people["ada"]).post(reverse("approval-approve", args=[request.pk])).status_code == 404
    assert browser(acme.person("vera", Role.VIEWER)).get(url).status_code == 403
    assert Client().get(url).status_code == 302
    assert state(acme, request) == ApprovalState.PENDING


def test_a_vote_takes_a_post_with_its_token(acme: Site) -> None:
    request = acme.open()
    client = Client(enforce_csrf_checks=True)
    client.force_login(acme.people["ada"])
    assert client.get(reverse("approval-approve", args=[request.pk])).status_code == 405
    assert client.post(reverse("approval-approve", args=[request.pk])).status_code == 403
    assert state(acme, request) == ApprovalState.PENDING


def test_a_part_that_has_not_changed_is_not_sent_again(acme: Site) -> None:
    request = acme.open()
    client = browser(acme.people["ada"])
    for url in (reverse("approvals-part"), reverse("approval-part", args=[request.pk])):
        first = client.get(url)
        assert client.get(url, headers={"If-None-Match": first["ETag"]}).status_code == 304
        assert "pending" in first.content.decode()
    part = reverse("approval-part", args=[request.pk])
    before = client.get(part)["ETag"]
    post(client, request, "reject")
    after = client.get(part, headers={"If-None-Match": before})
    assert after.status_code == 200
    assert 'data-state="rejected"' in after.content.decode()


def test_breaking_the_glass_takes_a_reason(acme: Site) -> None:
    acme.flow(break_glass={"people": ["ada@acme.example"]})
    request = acme.open()
    client = browser(acme.people["ada"])
    assert "Not done" in post(client, request, "break-glass")
    assert "glass broken" in post(client, request, "break-glass", comment="the shop is down")
    assert state(acme, request) == ApprovalState.GRANTED


def test_the_preview_is_asked_for_once(acme: Site) -> None:
    request = acme.open()
    client = browser(acme.people["ada"])
    assert "The worker was asked" in post(client, request, "preview", exact="1")
    with scope(tenant=acme.tenant):
        assert ApprovalRequest.objects.get(pk=request.pk).preview_is_exact


def test_what_an_approver_reads_is_the_whole_and_in_its_order(acme: Site) -> None:
    hidden = {"value": "x" * 7_000 + "' OR true --", "binary": False, "truncated_bytes": 0}
    request = acme.open("DELETE FROM orders WHERE id = $1 -- \u202e 1 = di DNA", parameters=[hidden])
    client = browser(acme.people["ada"])
    for page in (reverse("approvals"), reverse("approval", args=[request.pk])):
        shown = client.get(page).content.decode()
        assert "\u202e" not in shown
        assert "⟨U+202E⟩" in shown
    assert "&#x27; OR true --" in shown
