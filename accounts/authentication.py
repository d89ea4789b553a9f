"""REST by a person's token: `Authorization: Bearer ngp_…`."""

from __future__ import annotations

from typing import Final

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts.access import authority_for
from accounts.actions import note_use
from accounts.models import ApiToken, User
from accounts.tokens import API_PREFIX, parse_token
from controlplane.authority import Authority
from controlplane.tenancy import every_tenant

_REFUSAL: Final = "The token is not valid. Make a new one in the admin, under API tokens."


class ApiTokenAuthentication(BaseAuthentication):
    """Puts the authority of the token on the request: the person's role, in the token's tenant alone."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        """None when there is no bearer token; raises AuthenticationFailed for one that isn't good."""
        scheme, _, credential = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        with every_tenant():
            token = _find(credential.strip())
            authority = _authority(token)
            note_use(token, now=timezone.now())
        request._request.authority = authority  # type: ignore[attr-defined]  # where the views look
        return token.user, token

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002  # DRF's signature
        """What a 401 asks for (RFC 6750, 3)."""
        return 'Bearer realm="narrowgate"'


class ApiTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI document of it."""

    target_class = ApiTokenAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:  # noqa: ARG002  # its signature
        """An HTTP bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "ngp_…"}


def _find(credential: str) -> ApiToken:
    presented = parse_token(credential, prefix=API_PREFIX)
    if presented is None:
        raise AuthenticationFailed(_REFUSAL)
    token: ApiToken | None = (
        ApiToken.objects.filter(token_id=presented.token_id).select_related("user", "tenant").first()
    )
    if token is None or not presented.matches(token.digest) or token.revoked_at or not token.user.is_active:
        raise AuthenticationFailed(_REFUSAL)
    if token.expires_at <= timezone.now():
        raise AuthenticationFailed("The token has expired. Make a new one in the admin, under API tokens.")
    return token


def _authority(token: ApiToken) -> Authority:
    """The person's role of today, in the token's tenant alone; never an operator's power."""
    role = authority_for(token.user).roles.get(token.tenant_id)
    if role is None or not token.tenant.is_active:
        raise AuthenticationFailed(_REFUSAL)
    return Authority(roles={token.tenant_id: role})
