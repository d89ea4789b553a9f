"""Sign-in by OpenID Connect: mozilla-django-oidc's flow, with the settings of one provider and with our own checks.

    start:     state, nonce and PKCE verifier into the session, under the provider → its authorization endpoint
    callback:  the provider in the URL must be the one of the state (mix-up) → code for tokens → ID token → `admit`

The library asks `get_settings` for all that differs by provider. Its HTTP calls and its reading of tokens are replaced:
they have no bounds, and check neither issuer nor audience.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlencode

import httpx
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from accounts.errors import BadCredential, SignInRefused
from accounts.federation import actions
from accounts.federation.metadata import oidc_endpoints
from accounts.federation.models import IdentityProvider
from accounts.federation.persons import Person, make_person, values_of
from accounts.jwks import BadDocument, fetch_document, is_fetchable, parse_object
from accounts.models import SigningAlgorithm, User
from accounts.oidc import claims_signed_by
from accounts.signin.models import SignInMethod
from accounts.signin.own_paths import own_path
from accounts.signin.sessions import SignInFacts, open_session
from controlplane.keyring import open_sealed

#: The provider's clock and ours.
CLOCK_SKEW_SECONDS: Final = 60
#: An ID token is fresh when it comes with the code; an old one is a replayed one.
MAX_AGE_SECONDS: Final = 600
BACKEND: Final = "accounts.federation.oidc.OidcBackend"


def callback_url(provider: IdentityProvider) -> str:
    """Where the provider sends people back to; pasted there. It names the provider, against mix-up (RFC 9700, 4.4)."""
    path = reverse("sign-in-callback", args=[provider.tenant.slug, provider.slug])
    return f"{settings.NARROWGATE.public_url}{path}"


def logout_url(provider: IdentityProvider) -> str:
    """Where the person ends their session at the provider; "" when it doesn't say."""
    endpoint = oidc_endpoints(provider).get("end_session_endpoint")
    return f"{endpoint}?{urlencode({'client_id': provider.client_id})}" if is_fetchable(str(endpoint)) else ""


def _settings_of(provider: IdentityProvider) -> dict[str, Any]:
    endpoints = oidc_endpoints(provider)
    secret = open_sealed(provider.sealed_secret, context=provider.secret_context).decode()
    return {
        "OIDC_OP_AUTHORIZATION_ENDPOINT": endpoints["authorization_endpoint"],
        "OIDC_OP_TOKEN_ENDPOINT": endpoints["token_endpoint"],
        "OIDC_OP_USER_ENDPOINT": endpoints.get("userinfo_endpoint", ""),
        "OIDC_RP_CLIENT_ID": provider.client_id,
        "OIDC_RP_CLIENT_SECRET": secret,
        "OIDC_RP_SCOPES": provider.scopes,
        "OIDC_USE_NONCE": True,
        "OIDC_USE_PKCE": True,
        "OIDC_PKCE_CODE_CHALLENGE_METHOD": "S256",
        "OIDC_AUTHENTICATION_CALLBACK_URL": "sign-in",  # the library reverses it without arguments; ours replaces it
    }


class StartView(OIDCAuthenticationRequestView):  # type: ignore[misc]  # untyped
    """Send the browser to the provider."""

    def __init__(self, *, provider: IdentityProvider) -> None:
        self._provider = provider
        self._settings = _settings_of(provider)
        super().__init__()

    def get_settings(self, attr: str, *args: Any) -> Any:
        """Of this provider, else the library's default."""
        return self._settings[attr] if attr in self._settings else args[0]

    def get_extra_params(self, request: HttpRequest) -> dict[str, str]:
        """The callback that names the provider."""
        del request
        return {"redirect_uri": callback_url(self._provider)}

    def get(self, request: HttpRequest) -> HttpResponse:
        """The redirect; the new state belongs to this provider, and leads back to a path of ours."""
        states = request.session.setdefault("oidc_states", {})
        before = set(states)
        answer = cast("HttpResponse", super().get(request))
        for state in set(request.session["oidc_states"]) - before:
            request.session["oidc_states"][state] |= {
                "provider": str(self._provider.pk),
                "next": own_path(request.GET.get("next", "")),
            }
        request.session.modified = True
        return answer


class CallbackView(OIDCAuthenticationCallbackView):  # type: ignore[misc]  # untyped
    """Take the browser back. Raises `SignInRefused`."""

    def __init__(self, *, provider: IdentityProvider) -> None:
        super().__init__()
        self._provider = provider
        self._next = ""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Check whose answer it is before the library takes the code."""
        state = request.GET.get("state", "")
        kept = request.session.get("oidc_states", {}).get(state)
        if kept is None or not constant_time_compare(kept.get("provider", ""), str(self._provider.pk)):
            raise SignInRefused("state of nobody, or of another provider")
        issuer = request.GET.get("iss")  # RFC 9207
        if issuer is not None and issuer != self._provider.issuer:
            raise SignInRefused("answer of another issuer")
        if "error" in request.GET:
            del request.session["oidc_states"][state]
            request.session.modified = True
            raise SignInRefused("the provider refused", fix="The identity provider did not let you in.")
        self._next = kept["next"]
        request.identity_provider = self._provider  # type: ignore[attr-defined]  # for the backend
        try:
            return cast("HttpResponse", super().get(request))
        except SuspiciousOperation:
            raise SignInRefused("the library refused") from None

    def login_failure(self) -> HttpResponse:
        """Whatever the library refuses without a word."""
        raise SignInRefused("no code, or nobody for it")

    def login_success(self) -> HttpResponse:
        """Open a session that is good in the provider's tenant."""
        facts = SignInFacts(method=SignInMethod.OIDC, provider=self._provider)
        return open_session(self.request, self.user, facts=facts, backend=BACKEND, next_path=self._next)


class OidcBackend(OIDCAuthenticationBackend):  # type: ignore[misc]  # untyped
    """Exchanges the code and finds the person. Django makes it without arguments: the request says which provider."""

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self.UserModel = User

    def get_settings(self, attr: str, *args: Any) -> Any:
        """Of this provider, else the library's default."""
        return self._settings[attr] if attr in self._settings else args[0]

    def authenticate(self, request: HttpRequest | None, **kwargs: Any) -> User | None:
        """The person behind the callback's code; None when this is no callback of ours. Raises `SignInRefused`."""
        provider = getattr(request, "identity_provider", None)
        if provider is None or not kwargs.get("nonce") or not kwargs.get("code_verifier"):
            return None
        self._provider: IdentityProvider = provider
        self._settings = _settings_of(provider)
        self.OIDC_OP_TOKEN_ENDPOINT = self._settings["OIDC_OP_TOKEN_ENDPOINT"]
        self.OIDC_OP_USER_ENDPOINT = self._settings["OIDC_OP_USER_ENDPOINT"]
        self.OIDC_RP_CLIENT_ID = self._settings["OIDC_RP_CLIENT_ID"]
        self.OIDC_RP_CLIENT_SECRET = self._settings["OIDC_RP_CLIENT_SECRET"]
        return cast("User | None", super().authenticate(request, **kwargs))

    def get_token(self, payload: dict[str, str]) -> dict[str, Any]:
        """The token endpoint's answer."""
        payload = {**payload, "redirect_uri": callback_url(self._provider)}
        tokens = _ask(self.OIDC_OP_TOKEN_ENDPOINT, method="POST", data=payload, headers={"Accept": "application/json"})
        if not all(isinstance(tokens.get(name), str) for name in ("id_token", "access_token")):
            raise SignInRefused("no ID token from the token endpoint")
        return tokens

    def verify_token(self, token: str, **kwargs: Any) -> dict[str, Any]:
        """The ID token's claims (OpenID Connect Core 1.0, 3.1.3.7). Raises `SignInRefused`."""
        try:
            claims = claims_signed_by(self._provider, token, algorithms=SigningAlgorithm.values)
        except BadCredential as error:
            raise SignInRefused(f"ID token: {error.why}") from None
        check_id_token(claims, provider=self._provider, nonce=kwargs["nonce"])
        return claims

    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> User:
        """Admit whom the claims name."""
        del id_token
        claims = {**self._user_info(access_token, payload), **payload}
        return actions.admit(self._provider, person_of(claims, self._provider), now=timezone.now())

    def get_user(self, user_id: Any) -> User | None:
        """Of a session: active ones only."""
        return ModelBackend().get_user(user_id)

    def _user_info(self, access_token: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Groups are often here alone. It must be of the same subject (OpenID Connect Core 1.0, 5.3.2)."""
        if not self.OIDC_OP_USER_ENDPOINT:
            return {}
        info = _ask(self.OIDC_OP_USER_ENDPOINT, headers={"Authorization": f"Bearer {access_token}"})
        if info.get("sub") != payload["sub"]:
            raise SignInRefused("user info of another subject")
        return info


def check_id_token(claims: Mapping[str, Any], *, provider: IdentityProvider, nonce: str) -> None:
    """Issuer, audience, authorised party, times, nonce. Raises `SignInRefused`."""
    now = int(timezone.now().timestamp())
    registry = JWTClaimsRegistry(
        now=now,
        leeway=CLOCK_SKEW_SECONDS,
        iss={"essential": True, "value": provider.issuer},
        aud={"essential": True, "value": provider.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        registry.validate(dict(claims))
        is_old = now - int(claims["iat"]) > MAX_AGE_SECONDS
    except (JoseError, ValueError, TypeError, OverflowError):
        raise SignInRefused("ID token: claims") from None
    audience = claims["aud"]
    is_shared = isinstance(audience, list) and len(audience) > 1
    if ("azp" in claims or is_shared) and claims.get("azp") != provider.client_id:
        raise SignInRefused("ID token: azp")
    if is_old:
        raise SignInRefused("ID token: too old")
    if not isinstance(claims.get("nonce"), str) or not constant_time_compare(claims["nonce"], nonce):
        raise SignInRefused("ID token: nonce")


def person_of(claims: Mapping[str, Any], provider: IdentityProvider) -> Person:
    """Whom verified claims name. Raises `SignInRefused`."""
    if claims.get("email_verified", True) not in {True, "true"}:
        raise SignInRefused("address not verified", fix="The identity provider hasn't verified your address.")
    return make_person(
        subject=claims.get("sub"),
        email=claims.get(provider.email_claim),
        name=claims.get("name"),
        groups=values_of(claims.get(provider.groups_claim)),
        method=SignInMethod.OIDC,
    )


def _ask(url: str, **request: Any) -> dict[str, Any]:
    try:
        return parse_object(fetch_document(url, **request))
    except (httpx.HTTPError, httpx.InvalidURL, BadDocument) as error:
        raise SignInRefused(f"{type(error).__name__}: {str(error)[:100]}") from None
