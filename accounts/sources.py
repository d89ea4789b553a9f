"""What a token was made from, beside what it stands for: with any of it withdrawn, the token ends.

A row points to one trust, one client and one parent token. A chain of several hands has more of each: they are carried
by name, `trust:<uuid>`, `client:<uuid>`, `token:<token id>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Q

from accounts.errors import BadCredential
from accounts.models import AgentToken, OidcTrust
from accounts.oauth.models import OAuthClient


def sources_of(
    *, trust: OidcTrust | None = None, client: OAuthClient | None = None, token: AgentToken | None = None
) -> tuple[str, ...]:
    """The names of what there is of these."""
    named = (("trust", trust and trust.pk), ("client", client and client.pk), ("token", token and token.token_id))
    return tuple(f"{kind}:{key}" for kind, key in named if key)


def made_from(
    *, trust: OidcTrust | None = None, client: OAuthClient | None = None, token: AgentToken | None = None
) -> Q:
    """The tokens made from any of these, directly or by a chain."""
    direct = Q()
    for field, source in (("trust", trust), ("client", client), ("parent", token)):
        if source is not None:
            direct |= Q(**{field: source})
    for name in sources_of(trust=trust, client=client, token=token):
        direct |= Q(carried__also__contains=[name])
    return direct


def refuse_withdrawn(names: Iterable[str], *, tenant_id: UUID) -> None:
    """Raises `BadCredential` unless each of these sources holds. One question for each kind that there is."""
    keys: dict[str, set[str]] = {"trust": set(), "client": set(), "token": set()}
    for name in names:
        kind, _, key = name.partition(":")
        keys[kind].add(key)
    trusts, clients, tokens = keys["trust"], keys["client"], keys["token"]
    held = (
        (trusts, OidcTrust.objects.filter(pk__in=trusts, is_active=True)),
        (clients, OAuthClient.objects.filter(pk__in=clients, is_active=True)),
        (tokens, AgentToken.objects.filter(token_id__in=tokens, revoked_at=None)),
    )
    if any(asked and rows.filter(tenant_id=tenant_id).count() != len(asked) for asked, rows in held):
        raise BadCredential("withdrawn source")
