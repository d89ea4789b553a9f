"""The steps of signing in and out by SAML. The browser's session knows which requests it has made.

A provider answers by a POST from its own site, without our `SameSite=Lax` session cookie. So the response is checked
first (`take_response`) and then waits, under a random handle, for the browser to come by GET, with its cookie
(`finish`): only the browser that asked can use the answer.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from django.core.cache import cache
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils import timezone
from onelogin.saml2.auth import OneLogin_Saml2_Auth
from onelogin.saml2.logout_request import OneLogin_Saml2_Logout_Request

from accounts.errors import SignInRefused
from accounts.federation import actions, saml
from accounts.federation.models import IdentityProvider
from accounts.federation.persons import Person
from accounts.federation.saml_guard import SAMLP, SIGNATURE_METHODS, UnsafeXml, decode_message, parse_safely
from accounts.signin.models import SignIn, SignInMethod
from accounts.signin.own_paths import own_path
from accounts.signin.sessions import SignInFacts, end_sign_ins, live, open_session
from controlplane.tenancy import every_tenant

#: A redirect's time.
HANDLE_SECONDS: Final = 60
#: Between asking a provider and its answer, a person types a password.
REQUEST_SECONDS: Final = 15 * 60
MAX_REQUESTS: Final = 10
_REQUESTS: Final = "saml_requests"
_BACKEND: Final = "django.contrib.auth.backends.ModelBackend"
_LOGOUT_PARAMETERS: Final = frozenset({"SAMLRequest", "RelayState", "SigAlg", "Signature"})


def start(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """Send the browser to the provider with a signed AuthnRequest."""
    auth = _auth(provider, url=saml.url_of(provider, "saml-acs"))
    url = auth.login(return_to="narrowgate")  # where it leads in the end is in the session, not in their hands
    now = time.time()
    kept = request.session.get(_REQUESTS, {})
    fresh = {name: one for name, one in kept.items() if now - one["at"] < REQUEST_SECONDS}
    newest = dict(sorted(fresh.items(), key=lambda item: item[1]["at"])[-(MAX_REQUESTS - 1) :])
    newest[auth.get_last_request_id()] = {
        "provider": str(provider.pk), "next": own_path(request.GET.get("next", "")), "at": now
    }  # fmt: skip
    request.session[_REQUESTS] = newest
    return HttpResponseRedirect(url)


def take_response(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """Check the response, and send the browser round to `finish`. Raises `SignInRefused`."""
    verified = saml.verify_response(provider, request.POST.get("SAMLResponse", ""), now=timezone.now())
    if not verified.in_response_to and not provider.allows_unasked:
        raise SignInRefused("response: unasked", fix="Start here, not at the identity provider.")
    handle = secrets.token_urlsafe(32)
    who = verified.person
    kept = {
        "provider": str(provider.pk),
        "in_response_to": verified.in_response_to,
        "person": [who.subject, who.email, who.name, [*who.groups], who.name_id, who.session_index],
    }
    cache.set(_handle_key(handle), kept, timeout=HANDLE_SECONDS)
    url = f"{saml.url_of(provider, 'saml-finish')}?{urlencode({'handle': handle})}"
    return HttpResponseRedirect(url, status=303)  # a GET, so that the session cookie comes along


def finish(request: HttpRequest, provider: IdentityProvider) -> HttpResponseBase:
    """Let the person in, if this browser asked. Raises `SignInRefused`."""
    key = _handle_key(request.GET.get("handle", "")[:100])
    kept = cache.get(key)
    if kept is None or not cache.delete(key) or kept["provider"] != str(provider.pk):
        raise SignInRefused("no such response")
    next_path = _next_of(request, provider, kept["in_response_to"])
    subject, email, name, groups, name_id, session_index = kept["person"]
    person = Person(
        subject=subject, email=email, name=name, groups=tuple(groups), method=SignInMethod.SAML, name_id=name_id,
        session_index=session_index,
    )  # fmt: skip
    user = actions.admit(provider, person, now=timezone.now())
    facts = SignInFacts(method=SignInMethod.SAML, provider=provider, name_id=name_id, session_index=session_index)
    return open_session(request, user, facts=facts, backend=_BACKEND, next_path=next_path)


def logout_url(sign_in: SignIn, provider: IdentityProvider) -> str:
    """Where the person ends their session at the provider; "" when it offers no single logout."""
    auth = _auth(provider, url=saml.url_of(provider, "saml-logout"), for_logout=True)
    if not auth.get_slo_url():
        return ""
    # The library puts the index into XML as it is.
    return str(auth.logout(return_to="", name_id=escape(sign_in.name_id), session_index=escape(sign_in.session_index)))


def take_logout(request: HttpRequest, provider: IdentityProvider) -> str:
    """A provider's LogoutRequest: end those sign-ins; returns where to answer. Raises `SignInRefused`.

    Its answer to ours ("SAMLResponse") changes nothing here: "".
    """
    if "SAMLResponse" in request.GET:
        return ""
    if set(request.GET) - _LOGOUT_PARAMETERS or any(len(request.GET.getlist(name)) != 1 for name in request.GET):
        raise SignInRefused("logout: parameters")
    if request.GET.get("SigAlg") not in SIGNATURE_METHODS or not request.GET.get("Signature"):
        raise SignInRefused("logout: not signed")
    try:
        data = decode_message(request.GET.get("SAMLRequest", ""), is_deflated=True)
        if parse_safely(data).tag != f"{SAMLP}LogoutRequest":
            raise UnsafeXml("it is no LogoutRequest")
    except UnsafeXml as error:
        raise SignInRefused(f"logout: {error}") from None
    answer, auth = _processed(request, provider)
    if auth.get_errors() or not answer:
        raise SignInRefused(f"logout: {', '.join(auth.get_errors())}")
    text = data.decode()
    name_id = OneLogin_Saml2_Logout_Request.get_nameid(text)
    indexes = OneLogin_Saml2_Logout_Request.get_session_indexes(text)
    with every_tenant():
        rows = live(now=timezone.now()).filter(provider=provider, name_id=name_id).select_related("user", "tenant")
        chosen = [row for row in rows if not indexes or row.session_index in indexes]
    end_sign_ins(chosen, acting_user=None)
    return answer


def _processed(request: HttpRequest, provider: IdentityProvider) -> tuple[str, Any]:
    url = saml.url_of(provider, "saml-logout")
    query = {"get_data": request.GET.dict(), "query_string": request.META["QUERY_STRING"]}
    auth = _auth(provider, url=url, for_logout=True, validate_signature_from_qs=True, **query)
    try:
        return str(auth.process_slo(keep_local_session=True) or ""), auth
    except saml.LIBRARY_TROUBLE as error:
        raise SignInRefused(f"logout: {type(error).__name__}") from None


def _next_of(request: HttpRequest, provider: IdentityProvider, in_response_to: str) -> str:
    if not in_response_to:
        return own_path("")  # `take_response` has asked whether that is allowed
    asked = request.session.get(_REQUESTS, {}).pop(in_response_to, None)
    request.session.modified = True
    if asked is None or asked["provider"] != str(provider.pk) or time.time() - asked["at"] > REQUEST_SECONDS:
        raise SignInRefused("this browser didn't ask")
    return str(asked["next"])


def _auth(provider: IdentityProvider, *, url: str, for_logout: bool = False, **more: Any) -> OneLogin_Saml2_Auth:
    settings = saml.library_settings(provider, for_logout=for_logout)
    return OneLogin_Saml2_Auth(saml.request_data(url, **more), old_settings=settings)


def _handle_key(handle: str) -> str:
    return f"saml-finish:{handle}"
