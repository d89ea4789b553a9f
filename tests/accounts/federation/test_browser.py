"""A person in a real browser: Chromium, our pages over HTTP, and a real OpenID provider (Canaille)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connections

from tests.accounts.conftest import make_site
from tests.accounts.federation.conftest import make_provider

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Playwright's synchronous API runs an event loop, in which Django would refuse the ORM.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.filterwarnings("default"),  # the provider's own
    pytest.mark.slow,
]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.fixture
def idp_client(iam_server: Any, live_server: Any) -> Any:
    """Narrowgate as a client of the provider."""
    with iam_server.app.app_context():
        client = iam_server.models.Client(
            client_id="narrowgate",
            client_secret="client-secret",
            client_name="Narrowgate",
            redirect_uris=[f"{live_server.url}/sign-in/acme/idp/callback/"],
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "email", "profile", "groups"],
            token_endpoint_auth_method="client_secret_post",
        )
        iam_server.backend.save(client)
        client.audience = [client]
        iam_server.backend.save(client)
    user = iam_server.random_user(
        user_name="ada", emails=["ada@acme.example"], formatted_name="Ada", password="user-password"
    )
    iam_server.random_group(display_name="staff", members=[user])
    return client


@pytest.mark.django_db(transaction=True)
def test_a_person_signs_in_by_a_real_provider(
    page: Any, iam_server: Any, idp_client: Any, live_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache.clear()
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, public_url=live_server.url))
    make_provider(
        make_site("acme"),
        name="Acme Login",
        issuer=iam_server.url.rstrip("/"),
        scopes="openid email profile groups",
    )
    shots = Path(os.environ.get("TEST_SCREENSHOTS") or tmp_path)
    page.goto(f"{live_server.url}/sign-in/?who=acme")
    page.screenshot(path=shots / "1-choose.png")
    page.get_by_role("link", name="Acme Login").click()
    page.screenshot(path=shots / "2-provider.png")
    page.fill("input[name=login]", "ada")
    page.keyboard.press("Enter")
    page.fill("input[name=password]", "user-password")
    page.screenshot(path=shots / "3-password.png")
    page.keyboard.press("Enter")
    consent = page.locator("button[name=answer][value=accept]")
    consent.click()
    page.wait_for_url(f"{live_server.url}/admin/")
    page.screenshot(path=shots / "5-signed-in.png")
    page.goto(f"{live_server.url}/sign-in/mine/")
    assert "OpenID Connect · Acme Login · this browser" in page.inner_text("body")
    page.screenshot(path=shots / "6-mine.png")
    page.get_by_role("button", name="Sign out everywhere").click()
    page.goto(f"{live_server.url}/admin/")
    assert "/admin/login/" in page.url
    page.screenshot(path=shots / "7-local.png")
    connections.close_all()
