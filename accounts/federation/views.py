"""The pages of providers: choosing one, starting, and coming back. Whatever is refused ends on one plain page."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

import structlog
from django.contrib import admin
from django.contrib.auth import logout
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from accounts.errors import SignInRefused
from accounts.federation import oidc, saml, saml_flow
from accounts.federation.access import find_provider, providers_for
from accounts.federation.models import IdentityProvider
from accounts.signin.models import SignIn
from accounts.signin.own_paths import own_path
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)

P = ParamSpec("P")
_REFUSED_STATUS: Final = 403


@require_GET
@never_cache
def choose(request: HttpRequest) -> HttpResponseBase:
    """Ask for organisation or address, and show the providers for it."""
    who = request.GET.get("who", "")[:254]
    return _choose(request, who=who)


@require_GET
@never_cache
def choose_in_tenant(request: HttpRequest, tenant: str) -> HttpResponseBase:
    """The providers of a tenant."""
    return _choose(request, who=tenant)


def _with_provider(
    view: Callable[Concatenate[HttpRequest, IdentityProvider, P], HttpResponseBase],
) -> Callable[..., HttpResponseBase]:
    """Find the provider that the URL names, and say in plain words what is refused."""

    @wraps(view)
    def found(request: HttpRequest, tenant: str, provider: str, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        row = find_provider(tenant, provider)
        if row is None:
            raise Http404
        try:
            return view(request, row, *args, **kwargs)
        except SignInRefused as error:
            log.warning("sign_in_refused", provider=str(row.pk), why=error.why)
            return _refused_page(request, row, error)

    return found


@require_GET
@never_cache
@_with_provider
def start(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """Send the browser to the provider."""
    if provider.is_oidc:
        view = oidc.StartView(provider=provider)
        view.setup(request)
        return view.get(request)
    return saml_flow.start(request, provider)


@require_GET
@never_cache
@_with_provider
def callback(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """OIDC's way back."""
    if not provider.is_oidc:
        raise Http404
    view = oidc.CallbackView(provider=provider)
    view.setup(request)
    return view.get(request)


@require_GET
@_with_provider
def saml_metadata(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """What is pasted at the provider, or fetched by it."""
    del request
    _require_saml(provider)
    return HttpResponse(saml.metadata(provider), content_type="application/samlmetadata+xml")


@csrf_exempt  # the provider's page posts it; the signature and the browser's own request are what count
@require_POST
@never_cache
@_with_provider
def saml_acs(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """SAML's way back, first half: check the response."""
    _require_saml(provider)
    return saml_flow.take_response(request, provider)


@require_GET
@never_cache
@_with_provider
def saml_finish(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """SAML's way back, second half: with the browser's own session, which a provider's POST doesn't bring along."""
    _require_saml(provider)
    return saml_flow.finish(request, provider)


@require_GET
@never_cache
@_with_provider
def saml_logout(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """Single logout: a provider's request, which ends sign-ins, or its answer to ours."""
    _require_saml(provider)
    answer_url = saml_flow.take_logout(request, provider)
    return redirect(answer_url) if answer_url else _signed_out_page(request)


@require_POST
@never_cache
def sign_out(request: HttpRequest) -> HttpResponseBase:
    """End this browser's sign-in, and offer to end the provider's session too."""
    sign_in: SignIn | None = getattr(request, "sign_in", None)
    provider = None if sign_in is None else _provider_of(sign_in)
    provider_url = "" if sign_in is None or provider is None else _logout_url(sign_in, provider)
    logout(request)
    return _signed_out_page(request, provider=provider, provider_url=provider_url)


def _provider_of(sign_in: SignIn) -> IdentityProvider | None:
    if sign_in.provider_id is None:
        return None
    with every_tenant():
        found: IdentityProvider | None = (
            IdentityProvider.objects.filter(pk=sign_in.provider_id).select_related("tenant").first()
        )
    return found


def _logout_url(sign_in: SignIn, provider: IdentityProvider) -> str:
    try:
        return oidc.logout_url(provider) if provider.is_oidc else saml_flow.logout_url(sign_in, provider)
    except SignInRefused:
        return ""  # it can't be reached: signing out here must work all the same


def _signed_out_page(
    request: HttpRequest, *, provider: IdentityProvider | None = None, provider_url: str = ""
) -> HttpResponseBase:
    name = "" if provider is None else provider.name
    context = {**_page(request), "provider_name": name, "provider_url": provider_url}
    return TemplateResponse(request, "accounts/signed_out.html", context)


def _choose(request: HttpRequest, *, who: str) -> HttpResponseBase:
    next_path = own_path(request.GET.get("next", ""))
    if request.user.is_authenticated:
        return redirect(next_path)
    context = {
        **_page(request),
        "who": who,
        "next": next_path,
        "providers": providers_for(who) if who else [],
        "local_url": reverse("sign-in-local"),
    }
    return TemplateResponse(request, "accounts/choose.html", context)


def _refused_page(request: HttpRequest, provider: IdentityProvider, error: SignInRefused) -> HttpResponseBase:
    reference = structlog.contextvars.get_contextvars().get("request_id", "")
    context = {**_page(request), "error": str(error), "provider": provider, "reference": reference}
    return TemplateResponse(request, "accounts/refused.html", context, status=_REFUSED_STATUS)


def _require_saml(provider: IdentityProvider) -> None:
    if provider.is_oidc:
        raise Http404


def _page(request: HttpRequest) -> dict[str, Any]:
    return {**admin.site.each_context(request), "title": "Sign in"}
