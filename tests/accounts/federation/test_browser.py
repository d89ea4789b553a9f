"""A person in a real browser: Chromium, our pages over HTTP, a real OpenID provider (Canaille), a real SAML one.

`TEST_SCREENSHOTS` names the folder for what the person sees, one picture a step.
"""

from __future__ import annotations

import os
import shutil
from base64 import b32decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connections
from django.urls import reverse
from django_otp.oath import TOTP
from django_scopes import scopes_disabled

from accounts import actions
from accounts.federation.models import IdentityProvider
from accounts.models import Membership
from controlplane.authority import Role
from tests.accounts.conftest import make_site
from tests.accounts.federation.conftest import make_provider
from tests.accounts.federation.saml_site import PASSWORD, SamlSite, running_saml_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Playwright's synchronous API runs an event loop, in which Django would refuse the ORM.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PASSPHRASE = "a-long-enough-phrase"

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
def site_url(live_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Ours, which knows how it is called."""
    cache.clear()
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, public_url=live_server.url))
    yield live_server.url
    connections.close_all()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    return Path(os.environ.get("TEST_SCREENSHOTS") or tmp_path)


@pytest.fixture
def saml() -> Iterator[SamlSite]:
    """A provider that knows an administrator, and somebody whom no mapped group holds."""
    with running_saml_site({"ada@acme.example": ["admins"], "eve@acme.example": ["visitors"]}) as saml:
        yield saml


@pytest.fixture
def idp_client(iam_server: Any, site_url: str) -> Any:
    """Narrowgate as a client of the provider."""
    with iam_server.app.app_context():
        client = iam_server.models.Client(
            client_id="narrowgate",
            client_secret="client-secret",
            client_name="Narrowgate",
            redirect_uris=[f"{site_url}/sign-in/acme/idp/callback/"],
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


def make_saml_provider(saml: SamlSite, site_url: str) -> None:
    """The provider as acme's, and each has the other's metadata."""
    provider: IdentityProvider = make_provider(
        make_site("acme"),
        slug="saml",
        name="Acme identity",
        kind="saml",
        issuer=saml.idp.entity_id,
        client_id="",
        metadata=saml.idp.metadata(),
    )
    saml.site = site_url + reverse("sign-in-start", args=["acme", "saml"])
    saml.certificate = provider.certificate


def sign_in_by_saml(page: Any, site_url: str, address: str) -> None:
    page.goto(f"{site_url}/sign-in/?who=acme")
    page.get_by_role("link", name="Continue with Acme identity").click()
    page.get_by_label("Address").fill(address)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.django_db(transaction=True)
def test_a_person_signs_in_by_a_real_openid_provider(
    page: Any, iam_server: Any, idp_client: Any, site_url: str, shots: Path
) -> None:
    make_provider(
        make_site("acme"),
        name="Acme Login",
        issuer=iam_server.url.rstrip("/"),
        scopes="openid email profile groups",
    )
    page.goto(f"{site_url}/sign-in/?who=acme")
    page.screenshot(path=shots / "oidc-1-choose.png")
    page.get_by_role("link", name="Continue with Acme Login").click()
    page.screenshot(path=shots / "oidc-2-provider.png")
    page.fill("input[name=login]", "ada")
    page.keyboard.press("Enter")
    page.fill("input[name=password]", "user-password")
    page.screenshot(path=shots / "oidc-3-password.png")
    page.keyboard.press("Enter")
    page.locator("button[name=answer][value=accept]").click()
    page.wait_for_url(f"{site_url}/admin/")
    page.screenshot(path=shots / "oidc-4-signed-in.png")
    page.goto(f"{site_url}/sign-in/mine/")
    assert "OpenID Connect · Acme Login · this browser" in page.inner_text("body")
    page.screenshot(path=shots / "oidc-5-mine.png")
    page.get_by_role("button", name="Sign out everywhere").click()
    page.goto(f"{site_url}/admin/")
    assert "/admin/login/" in page.url
    page.screenshot(path=shots / "oidc-6-local.png")


@pytest.mark.django_db(transaction=True)
def test_a_person_signs_in_by_saml_from_the_first_page_and_out_at_both_ends(
    page: Any, saml: SamlSite, site_url: str, shots: Path
) -> None:
    make_saml_provider(saml, site_url)
    page.goto(f"{site_url}/admin/")
    page.screenshot(path=shots / "saml-1-first.png")
    page.get_by_role("link", name="Sign in with your organisation").click()
    page.screenshot(path=shots / "saml-2-organisation.png")
    page.get_by_label("Organisation").fill("acme")
    page.get_by_role("button", name="Continue").click()
    page.screenshot(path=shots / "saml-3-choose.png")
    page.get_by_role("link", name="Continue with Acme identity").click()
    assert page.url.startswith(f"{saml.url}/sso?")
    page.screenshot(path=shots / "saml-4-provider.png")
    page.get_by_label("Address").fill("ada@acme.example")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site_url}/admin/")
    page.screenshot(path=shots / "saml-5-signed-in.png")
    with scopes_disabled():
        assert Membership.objects.get(user__email="ada@acme.example").role == Role.ADMIN
    page.goto(f"{site_url}/sign-in/mine/")
    assert "SAML 2.0 · Acme identity · this browser" in page.inner_text("body")
    page.get_by_text("ada@acme.example").first.click()
    page.get_by_role("button", name="Log out").hover()
    page.screenshot(path=shots / "saml-6-menu.png", animations="disabled")
    page.get_by_role("button", name="Log out").click()
    page.screenshot(path=shots / "saml-7-signed-out.png")
    assert saml.signed_in == {"ada@acme.example"}
    page.get_by_role("link", name="Sign out there too").click()
    page.wait_for_url(f"{saml.site}logout/?**")
    page.screenshot(path=shots / "saml-8-signed-out-there.png")
    assert saml.signed_in == set()
    page.goto(f"{site_url}/admin/")
    assert "/admin/login/" in page.url


@pytest.mark.django_db(transaction=True)
def test_a_provider_that_ends_its_session_ends_ours(page: Any, saml: SamlSite, site_url: str, shots: Path) -> None:
    make_saml_provider(saml, site_url)
    sign_in_by_saml(page, site_url, "ada@acme.example")
    page.wait_for_url(f"{site_url}/admin/")
    page.goto(f"{saml.url}/leave?address=ada@acme.example")
    page.wait_for_url(f"{saml.url}/slo?**")
    page.screenshot(path=shots / "saml-9-left.png")
    page.goto(f"{site_url}/admin/")
    assert "/admin/login/" in page.url


@pytest.mark.django_db(transaction=True)
def test_somebody_without_a_mapped_group_is_told_why_they_are_not_let_in(
    page: Any, saml: SamlSite, site_url: str, shots: Path
) -> None:
    make_saml_provider(saml, site_url)
    sign_in_by_saml(page, site_url, "eve@acme.example")
    page.wait_for_url(f"{saml.site}finish/?**")
    page.screenshot(path=shots / "saml-10-refused.png")
    assert "None of your groups has a role in Acme." in page.inner_text("[role=alert]")
    page.get_by_role("link", name="Start again").click()
    assert page.url == f"{site_url}/sign-in/acme/"


@pytest.mark.django_db(transaction=True)
def test_a_local_account_sets_an_authenticator_up_by_its_picture(page: Any, site_url: str, shots: Path) -> None:
    owner = actions.save_user(make_site("acme").people[Role.OWNER], acting_user=None, password=PASSPHRASE)
    page.goto(f"{site_url}/admin/login/")
    page.get_by_label("E-mail address").fill(owner.email)
    page.get_by_label("Password").fill(PASSPHRASE)
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{site_url}/sign-in/mine/")
    page.get_by_role("link", name="Set up an authenticator").click()
    page.screenshot(path=shots / "totp-1-key.png")
    box = page.locator("svg.segno").bounding_box()
    assert min(box["width"], box["height"]) > 150  # large enough for a camera
    key = page.inner_text("#secret").replace(" ", "")
    page.get_by_label("Code").fill("12345")
    page.get_by_role("button", name="Continue").click()
    page.screenshot(path=shots / "totp-2-wrong.png")
    assert page.locator("#secret").count() == 0
    page.get_by_label("Code").fill(f"{TOTP(b32decode(key)).token():06}")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url(f"{site_url}/sign-in/mine/")
    page.screenshot(path=shots / "totp-3-done.png")
    assert page.get_by_role("link", name="Set up an authenticator").count() == 0
