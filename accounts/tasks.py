"""What happens to accounts by the clock, and the alerts about them."""

from __future__ import annotations

import structlog
from celery import shared_task
from django.conf import settings
from django.core.mail import send_mail
from django.db.models import Q
from django.utils import timezone

from accounts import actions
from accounts.models import User, ledgers_of
from accounts.oauth.actions import forget_assertions
from accounts.signin import sessions
from controlplane.authority import Role
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)


@shared_task
def forget_used_assertions() -> int:
    """Delete what is only kept against replay, once it has expired."""
    return forget_assertions(now=timezone.now())


@shared_task
def forget_old_tokens() -> int:
    """Delete tokens that ended long ago."""
    return actions.forget_old_tokens(now=timezone.now())


@shared_task
def forget_old_sign_ins() -> int:
    """Delete sign-ins that ended long ago."""
    return sessions.forget_old(now=timezone.now())


@shared_task(autoretry_for=(OSError,), retry_backoff=True, max_retries=5)
def alert_break_glass(*, user_id: str, method: str, address: str) -> int:
    """Somebody used a local account: log it, and write to the owners of their tenants. Returns to how many.

    Of an operator, or of somebody without a tenant, it is written to the operators.

    Without NARROWGATE_SMTP_URL there is the log alone.
    """
    user = User.objects.get(pk=user_id)
    log.warning("break_glass_used", user=str(user), method=method, address=address)
    return _write_to_owners(
        user,
        subject=f"Narrowgate: {user} used a local account",
        text=f"{user} signed in with a local account ({method}) from {address or 'an unknown address'}.\n"
        f"If that was no emergency, end the sign-in: {settings.NARROWGATE.public_url}/sign-in/mine/\n",
    )


@shared_task(autoretry_for=(OSError,), retry_backoff=True, max_retries=5)
def alert_authenticator_replaced(*, user_id: str, address: str) -> int:
    """Somebody took another authenticator app for a local account: told as its use is. Returns to how many."""
    user = User.objects.get(pk=user_id)
    log.warning("authenticator_replaced", user=str(user), address=address)
    return _write_to_owners(
        user,
        subject=f"Narrowgate: {user} replaced their authenticator",
        text=f"The local account of {user} has another authenticator app, set up from "
        f"{address or 'an unknown address'} with a code of the one before.\n"
        f"If that wasn't they, deactivate the account, and take the app away: manage.py reset_authenticator {user}\n",
    )


def _write_to_owners(user: User, *, subject: str, text: str) -> int:
    if not settings.NARROWGATE.smtp_url:
        return 0
    with every_tenant():
        ledgers = ledgers_of(user, is_operators=user.is_superuser)
        concerned = Q(memberships__tenant__in=[tenant for tenant in ledgers if tenant], memberships__role=Role.OWNER)
        if None in ledgers:
            concerned |= Q(is_superuser=True)
        addresses = sorted(set(User.objects.filter(concerned, is_active=True).values_list("email", flat=True)))
    for owner in addresses:
        send_mail(subject, text, None, [owner])
    return len(addresses)
