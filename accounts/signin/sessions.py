"""Opening, finding and ending sign-ins. Django's session holds the id of its `SignIn`, and nothing more of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import login
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.utils import timezone

from accounts.federation.models import IdentityProvider
from accounts.models import User
from accounts.signin.models import SignIn, SignInMethod
from controlplane.ledger.actions import append_entry
from controlplane.tenancy import every_tenant

SESSION_KEY: Final = "sign_in"
#: A working day, and a lunch.
LIFETIME: Final = timedelta(hours=8)
IDLE: Final = timedelta(hours=1)
#: `last_seen_at` at every request would make each page a write.
SEEN_NOTED_EVERY: Final = timedelta(minutes=1)
#: Long enough to ask who signed in when; the ledger has it for good.
FORGET_AFTER: Final = timedelta(days=30)
MAX_USER_AGENT: Final = 200
#: Of rows that are ended in one go: in memory at once.
BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class SignInFacts:
    """How a person proved who they are."""

    method: SignInMethod
    provider: IdentityProvider | None = None
    name_id: str = ""
    session_index: str = ""


def open_session(
    request: HttpRequest, user: User, *, facts: SignInFacts, backend: str, next_path: str
) -> HttpResponseRedirect:
    """Sign the person in under a new session key, and send them on."""
    request.sign_in_facts = facts  # type: ignore[attr-defined]  # for `note_login`
    login(request, user, backend=backend)
    return HttpResponseRedirect(next_path)


def note_login(sender: object, request: HttpRequest, user: AbstractBaseUser, **_: Any) -> None:
    """On Django's signal: each login has a `SignIn`, whoever made it; one before it in this browser has ended."""
    del sender
    end_current(request)
    facts: SignInFacts = getattr(request, "sign_in_facts", SignInFacts(method=SignInMethod.PASSWORD))
    provider = facts.provider
    with every_tenant():
        made = SignIn.objects.create(
            tenant_id=provider.tenant_id if provider else None,
            user_id=user.pk,
            provider=provider,
            method=facts.method,
            address=request.META.get("REMOTE_ADDR") or None,
            user_agent=_user_agent(request),
            expires_at=timezone.now() + LIFETIME,
            name_id=facts.name_id,
            session_index=facts.session_index,
        )
    request.session[SESSION_KEY] = str(made.pk)


def note_logout(sender: object, request: HttpRequest, **_: Any) -> None:
    """On Django's signal, before it forgets the session."""
    del sender
    end_current(request)


def current_sign_in(request: HttpRequest, *, now: datetime) -> SignIn | None:
    """The live sign-in of the request's session, in the same browser, of an active provider; noted as seen."""
    wanted = _id_in(request)
    if wanted is None:
        return None
    with every_tenant():
        found = live(now=now).filter(pk=wanted, user=request.user.pk).first()
        if found is None or (found.user_agent and found.user_agent != _user_agent(request)):
            return None
        if now - found.last_seen_at >= SEEN_NOTED_EVERY:
            SignIn.objects.filter(pk=found.pk).update(last_seen_at=now)
    return found


def live(*, now: datetime) -> QuerySet[SignIn]:
    """The sign-ins that are good now. The caller holds the scope."""
    return SignIn.objects.filter(
        Q(provider=None) | Q(provider__is_active=True, tenant__is_active=True),
        ended_at=None,
        expires_at__gt=now,
        last_seen_at__gt=now - IDLE,
    )


def end_current(request: HttpRequest) -> None:
    """End the sign-in of this session, if it has one."""
    wanted = _id_in(request)
    if wanted is not None:
        with every_tenant():
            SignIn.objects.filter(pk=wanted, ended_at=None).update(ended_at=timezone.now())


@transaction.atomic
def end_sign_ins(sign_ins: Iterable[SignIn], *, acting_user: User | None) -> int:
    """End them now, at the next request of each browser.

    Told in the ledger of the tenants that they were for; of local accounts', in the platform's.
    """
    ended = 0
    with every_tenant():
        for sign_in in sign_ins:
            if not SignIn.objects.filter(pk=sign_in.pk, ended_at=None).update(ended_at=timezone.now()):
                continue
            ended += 1
            append_entry(
                tenant=sign_in.tenant,
                kind="sign_in.ended",
                acting_user=acting_user,
                subject=f"user:{sign_in.user}",
                before={"method": sign_in.method, "started_at": sign_in.started_at},
                after=None,
            )
    return ended


@transaction.atomic
def end_all(rows: QuerySet[SignIn], *, acting_user: User | None) -> int:
    """As `end_sign_ins`, however many they are. The caller holds the scope."""
    going = rows.filter(ended_at=None).select_related("tenant", "user")
    ended = 0
    while batch := list(going[:BATCH]):
        ended += end_sign_ins(batch, acting_user=acting_user)
    return ended


def forget_old(*, now: datetime) -> int:
    """Delete sign-ins that ended long ago; returns how many."""
    with every_tenant():
        return int(SignIn.objects.filter(expires_at__lt=now - FORGET_AFTER).delete()[0])


def _id_in(request: HttpRequest) -> UUID | None:
    try:
        return UUID(request.session.get(SESSION_KEY, ""))
    except (ValueError, TypeError, AttributeError):
        return None


def _user_agent(request: HttpRequest) -> str:
    return str(request.META.get("HTTP_USER_AGENT", ""))[:MAX_USER_AGENT]
