"""The endpoints: token, revocation (RFC 7009), introspection (RFC 7662), metadata (RFC 8414).

Each is there for the installation, and for one tenant under its slug, where a provider's token that several tenants
would accept has one meaning.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import structlog
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.actions import note_use, revoke_agent_token
from accounts.errors import AccountsError
from accounts.identify import identify_agent
from accounts.models import AgentToken, ServicePurpose, ServiceToken, SigningAlgorithm, Tenant
from accounts.oauth import actions
from accounts.oauth.clients import authenticate_client
from accounts.oauth.exchange import ACCESS_TOKEN, CLIENT_CREDENTIALS, SCOPE_PREFIX, TOKEN_EXCHANGE, entitlement
from accounts.oauth.wire import OAuthError, answer, endpoint, invalid_client, one, parameters
from accounts.tokens import AGENT_PREFIX, SERVICE_PREFIX, parse_token
from controlplane.origin import current_origin
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)

DATABASE_LOGIN: Final = "urn:narrowgate:params:oauth:token-type:database-login"
SSH_CERTIFICATE: Final = "urn:narrowgate:params:oauth:token-type:ssh-certificate"


@endpoint("token")
def token(request: HttpRequest, slug: str | None = None) -> HttpResponse:
    """Issue what the request is entitled to."""
    form, now = parameters(request), timezone.now()
    kind = form.get("requested_token_type", [ACCESS_TOKEN])[0]
    if kind not in {ACCESS_TOKEN, DATABASE_LOGIN, SSH_CERTIFICATE}:
        raise OAuthError("invalid_request", "requested_token_type is not supported")
    with every_tenant():
        tenant = _tenant(slug)
        client = authenticate_client(request, form, now=now, audiences=_audiences(slug))
        if client is not None and tenant is not None and client.tenant_id != tenant.pk:
            raise invalid_client("unknown client, or not its secret")
        entitled = entitlement(
            form, client, endpoint=f"{_base(slug)}/token", now=now, tenant_id=tenant.pk if tenant else None
        )
        if kind == DATABASE_LOGIN:
            row, username, text = actions.issue_database_login(entitled, now=now)
            body = _issued(row, text, kind, now=now) | {"username": username}
        elif kind == SSH_CERTIFICATE:
            row, text = actions.issue_ssh_certificate(entitled, public_key=one(form, "public_key"), now=now)
            body = _issued(row, text, kind, now=now)
        else:
            row, text = actions.issue_access_token(entitled, now=now)
            _log_issued(row)
            body = _issued(row, text, kind, now=now)
        return answer(body)


def _log_issued(row: AgentToken) -> None:
    """For who got what from what. Not in the ledger: its order is one by one, and a fleet asks many times a minute."""
    log.info(
        "access_token_issued",
        tenant=str(row.tenant_id),
        agent=row.agent.name,
        token=row.token_id,
        trust=row.trust and row.trust.name,
        client=row.client and row.client.client_id,
        parent=row.parent and row.parent.token_id,
        on_behalf_of=row.carried.get("on_behalf_of", ""),
        actors=row.carried.get("actors", []),
        targets=row.targets,
        expires_at=row.expires_at.isoformat(),
        address=current_origin().address,
    )


@endpoint("revoke")
def revoke(request: HttpRequest, slug: str | None = None) -> HttpResponse:
    """End the token that is shown. 200 also for one that is unknown (RFC 7009, 2.2)."""
    form, now = parameters(request), timezone.now()
    text = one(form, "token")
    with every_tenant():
        tenant = _tenant(slug)
        client = authenticate_client(request, form, now=now, audiences=_audiences(slug))
        found = _find(text, tenant)
        if found is not None and found.revoked_at is None:
            if found.client is not None and found.client != client:
                raise invalid_client("the token is another client's")
            revoke_agent_token(found, acting_user=None)
    return answer({})


@endpoint("introspect")
def introspect(request: HttpRequest, slug: str | None = None) -> HttpResponse:
    """Say of a token whether it is good, to whoever holds a service token of its tenant for that."""
    now = timezone.now()
    with every_tenant():
        service = service_token(request, ServicePurpose.INTROSPECTION, now=now)
        tenant = _tenant(slug)
        if service is None or (tenant is not None and service.tenant_id != tenant.pk):
            headers = {"WWW-Authenticate": 'Bearer realm="narrowgate", error="invalid_token"'}
            raise OAuthError("invalid_token", "use a service token for introspection", status=401, headers=headers)
        text = one(parameters(request), "token")
        try:
            identified = identify_agent(text, now=now, tenant_id=service.tenant_id)
        except AccountsError:
            return answer({"active": False})
    body: dict[str, Any] = {
        "active": True,
        "iss": settings.NARROWGATE.public_url,
        "sub": identified.agent.name,
        "token_type": "Bearer",
        "exp": int(identified.expires_at.timestamp()),
        "groups": list(identified.groups),
        "jti": identified.credential_id,
    }
    if identified.targets is not None:
        body["scope"] = _scope(identified.targets)
    if identified.on_behalf_of:
        body["on_behalf_of"] = identified.on_behalf_of
    act: dict[str, Any] | None = None
    for name in reversed(identified.actors):
        act = {"sub": name} if act is None else {"sub": name, "act": act}
    return answer(body if act is None else {**body, "act": act})


@require_safe
def metadata(request: HttpRequest, slug: str | None = None) -> HttpResponse:  # noqa: ARG001  # Django's signature
    """What this server can do. A tenant's document says nothing of whether there is such a tenant."""
    issuer = _issuer(slug)
    algorithms = [algorithm.value for algorithm in SigningAlgorithm]
    methods = ["private_key_jwt", "client_secret_basic", "client_secret_post"]
    return JsonResponse(
        {
            "issuer": issuer,
            "token_endpoint": f"{_base(slug)}/token",
            "revocation_endpoint": f"{_base(slug)}/revoke",
            "introspection_endpoint": f"{_base(slug)}/introspect",
            "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": [*methods, "none"],
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "revocation_endpoint_auth_methods_supported": [*methods, "none"],
            "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        }
    )


def service_token(request: HttpRequest, purpose: ServicePurpose, *, now: datetime) -> ServiceToken | None:
    """The good service token of that purpose that the request bears, in the scope of every tenant."""
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    presented = parse_token(credential.strip(), prefix=SERVICE_PREFIX) if scheme.lower() == "bearer" else None
    if presented is None:
        return None
    rows = ServiceToken.objects.filter(token_id=presented.token_id, purpose=purpose, tenant__is_active=True)
    found: ServiceToken | None = rows.select_related("tenant").first()
    if found is None or not presented.matches(found.digest) or found.revoked_at or found.expires_at <= now:
        return None
    note_use(found, now=now)
    return found


def _find(text: str, tenant: Tenant | None) -> AgentToken | None:
    presented = parse_token(text, prefix=AGENT_PREFIX)
    if presented is None:
        return None
    tokens = AgentToken.objects.filter(token_id=presented.token_id).select_related("tenant", "client", "agent")
    found: AgentToken | None = (tokens if tenant is None else tokens.filter(tenant=tenant)).first()
    return found if found is not None and presented.matches(found.digest) else None


def _issued(row: AgentToken, text: str, kind: str, *, now: datetime) -> dict[str, Any]:
    body: dict[str, Any] = {
        "access_token": text,
        "issued_token_type": kind,
        "token_type": "Bearer" if kind == ACCESS_TOKEN else "N_A",
        "expires_in": int((row.expires_at - now).total_seconds()),
    }
    return body if row.targets is None else {**body, "scope": _scope(row.targets)}


def _scope(targets: Any) -> str:
    return " ".join(f"{SCOPE_PREFIX}{name}" for name in targets)


def _tenant(slug: str | None) -> Tenant | None:
    if slug is None:
        return None
    found = Tenant.objects.filter(slug=slug, is_active=True).first()
    if found is None:
        raise Http404
    return found


def _base(slug: str | None) -> str:
    return settings.NARROWGATE.public_url + ("/oauth" if slug is None else f"/oauth/{slug}")


def _issuer(slug: str | None) -> str:
    return settings.NARROWGATE.public_url if slug is None else _base(slug)


def _audiences(slug: str | None) -> tuple[str, ...]:
    return (_issuer(slug), f"{_base(slug)}/token")
