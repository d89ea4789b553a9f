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
from policies.models import Policy, PolicyVersion
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
