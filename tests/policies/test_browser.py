"""A person writes a policy in a real browser, as a form and as YAML.

`TEST_SCREENSHOTS` names the folder for what the person sees.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django_scopes import scopes_disabled

from controlplane.authority import Role
from policies.approvals.models import ApprovalFlow
from policies.models import Policy, PolicyDraft, PolicyVersion
from policies.simulation.actions import finish
from policies.simulation.models import Simulation
from tests.sessions.conftest import Site, make_site
from tests.sessions.people import person

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.filterwarnings("default"),  # the browser's driver's own
    pytest.mark.slow,
]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A browser's page. Anything that a script throws, or that the CSP refuses, fails the test."""
    from playwright.sync_api import sync_playwright

    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(120_000)  # ms: the machine may be slow
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
        yield page
        browser.close()
    assert problems == []


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(os.environ.get("TEST_SCREENSHOTS") or tmp_path)


@pytest.fixture
def acme(transactional_db: None) -> Iterator[Site]:
    """A tenant with a policy."""
    cache.clear()
    yield make_site("acme")
    connections.close_all()


def sign_in(page: Any, live_server: Any, site: Site) -> None:
    """As an administrator."""
    client = Client()
    client.force_login(person(site.tenant, Role.ADMIN))
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": live_server.url}])


def test_a_policy_is_written_as_a_form_and_as_yaml_and_published(
    page: Any, live_server: Any, acme: Site, shots: Path
) -> None:
    sign_in(page, live_server, acme)
    with scopes_disabled():
        policy = Policy.objects.get()
    page.goto(f"{live_server.url}/admin/policies/policy/{policy.pk}/change/")
    page.screenshot(path=shots / "policy-1-now.png", full_page=True)
    page.get_by_role("link", name="Edit the rules").click()
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "policy-2-editor.png", full_page=True)
    page.get_by_role("button", name="Add a rule").click()
    rule = page.locator("[data-rule]").nth(2)
    rule.get_by_label("Name", exact=True).fill("no-deletes")
    rule.get_by_label("Effect").select_option("deny")
    rule.get_by_label("Agents", exact=False).first.fill("reporter, nobody")
    rule.get_by_label("Targets", exact=True).fill("shop")
    rule.get_by_role("button", name="delete", exact=True).click()
    page.get_by_text("there is no agent 'nobody'").wait_for()
    assert page.get_by_role("button", name="Publish").is_disabled()
    page.screenshot(path=shots / "policy-3-wrong.png", full_page=True)
    page.get_by_role("button", name="YAML").click()
    area = page.get_by_label("The policy as YAML")
    text = area.input_value()
    assert re.search(r"- name: no-deletes\n  effect: deny\n  agents: \[reporter, nobody\]\n", text)
    area.fill(text.replace("reporter, nobody", "reporter"))
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "policy-4-yaml.png", full_page=True)
    page.get_by_role("button", name="Form").click()
    assert rule.get_by_label("Agents", exact=False).first.input_value() == "reporter"
    page.get_by_label("Why the rules change").fill("Nothing is deleted by reports")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("support@2 applies from now on.").wait_for()
    page.screenshot(path=shots / "policy-5-published.png", full_page=True)
    with scopes_disabled():
        version = PolicyVersion.objects.get(number=2)
    assert version.rules[2] == {
        "name": "no-deletes", "effect": "deny", "agents": ["reporter"], "targets": ["shop"], "operations": ["delete"]
    }  # fmt: skip
    page.goto(f"{live_server.url}/admin/policies/policyversion/{version.pk}/change/")
    page.screenshot(path=shots / "policy-6-version.png", full_page=True)


def test_a_draft_is_proposed_reviewed_and_simulated(page: Any, live_server: Any, acme: Site, shots: Path) -> None:
    acme.tenant.requires_review = True
    acme.tenant.save()
    sign_in(page, live_server, acme)
    with scopes_disabled():
        policy = Policy.objects.get()
    page.goto(f"{live_server.url}/admin/policies/policy/{policy.pk}/rules/")
    page.locator("[data-rule]").first.get_by_role("button").first.click()
    page.locator("[data-rule]").first.get_by_label("Effect").select_option("limit")
    page.get_by_text("to correct").first.wait_for()
    page.screenshot(path=shots / "draft-1-limit.png", full_page=True)
    page.locator("[data-rule]").first.get_by_label("rows", exact=True).fill("1000")
    page.get_by_text("nothing to correct").wait_for()
    page.get_by_label("Why the rules change").fill("Reports read little")
    page.get_by_role("button", name="Propose for review").click()
    page.get_by_text("It waits for somebody else's review.").wait_for()
    page.screenshot(path=shots / "draft-2-proposed.png", full_page=True)
    page.get_by_role("link", name="Simulate").click()
    page.screenshot(path=shots / "draft-3-ask.png", full_page=True)
    page.get_by_role("button", name="Simulate").click()
    page.get_by_text("Under way").wait_for()
    page.screenshot(path=shots / "draft-4-under-way.png", full_page=True)
    with scopes_disabled():
        simulation, draft = Simulation.objects.get(), PolicyDraft.objects.get()
    session = str(acme.session().pk)
    shown = {"session": session, "op": 4, "at": 0.0, "text": "DELETE FROM orders WHERE id = 4711"}
    group = {
        "difference": "newly_denied", "agent": "reporter", "target": "shop", "rule_before": "support/read",
        "rule_after": "default deny", "reason": "no rule allows reporter on shop", "count": 12, "examples": [shown],
    }  # fmt: skip
    counts = {"newly_denied": 12, "newly_allowed": 0, "newly_held": 0, "other_terms": 0}
    result = {"operations": 1204, "left_out": 3, "counts": counts, "groups": [group], "in_other_groups": 0}
    with scopes_disabled():
        finish(simulation, result={**result, "before": "support@1"})
    page.get_by_text("By agent and rule").wait_for()  # the page has followed it
    page.screenshot(path=shots / "draft-5-simulated.png", full_page=True)
    reviewer = Client()
    reviewer.force_login(person(acme.tenant, Role.APPROVER))
    value = reviewer.cookies[settings.SESSION_COOKIE_NAME].value
    page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": live_server.url}])
    page.goto(f"{live_server.url}/admin/policies/policydraft/{draft.pk}/review/")
    page.screenshot(path=shots / "draft-6-review.png", full_page=True)
    page.get_by_text("Approve: it may be published").click()
    page.get_by_role("button", name="Done").click()
    page.get_by_text("Approved by").wait_for()
    page.screenshot(path=shots / "draft-7-approved.png", full_page=True)


def test_a_flow_is_written_as_a_form_and_as_yaml_and_kept(page: Any, live_server: Any, acme: Site, shots: Path) -> None:
    sign_in(page, live_server, acme)
    page.goto(f"{live_server.url}/admin/policies/approvalflow/add/")
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "flow-1-new.png", full_page=True)
    page.locator("[name=name]").fill("writes")
    page.get_by_role("button", name="Add a stage").click()
    second = page.locator("[data-stage]").nth(1)
    second.get_by_label("How many have to say yes").fill("50")
    page.get_by_text("stages[1].quorum").wait_for()
    page.screenshot(path=shots / "flow-2-wrong.png", full_page=True)
    second.get_by_label("How many have to say yes").fill("2")
    second.get_by_label("Approvers: people").fill("ada@acme.example")
    second.get_by_label("Approvers: people").press("Tab")
    page.get_by_label("A request waits, in minutes").fill("45")
    page.get_by_label("Somebody may let it pass alone").check()
    page.get_by_role("button", name="Grant: window").click()
    page.get_by_text("'ada@acme.example' has no role here that approves").wait_for()
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "flow-3-form.png", full_page=True)
    page.get_by_role("button", name="YAML").click()
    area = page.get_by_label("The terms as YAML")
    assert "expires_after_seconds: 2700" in area.input_value()
    area.fill(area.input_value().replace("2700", "2400"))
    page.get_by_role("button", name="Form").click()
    page.wait_for_function("document.querySelector('input[placeholder=\"60\"]').value === '40'")
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "flow-4-both.png", full_page=True)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("was added successfully").wait_for()
    with scopes_disabled():
        flow = ApprovalFlow.objects.get(name="writes")
    assert flow.terms["stages"][1] == {
        "approvers": {"roles": ["approver"], "people": ["ada@acme.example"]}, "quorum": 2
    }  # fmt: skip
    assert (flow.terms["expires_after_seconds"], flow.terms["break_glass"]) == (2400, {"roles": ["owner"]})
    assert flow.terms["scopes"] == ["once", "window"]
    page.goto(f"{live_server.url}/admin/policies/approvalflow/{flow.pk}/change/")
    page.get_by_text("nothing to correct").wait_for()
    page.screenshot(path=shots / "flow-5-change.png", full_page=True)
