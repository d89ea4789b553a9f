"""Break-glass: a local account with password and, by TOTP, a second factor. Each use is told and is an alert."""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Final
from urllib.parse import quote, urlencode
from uuid import UUID

import segno
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from accounts.models import Membership, User, ledgers_of
from accounts.signin.models import CODE_DIGITS, SignInMethod, TotpDevice
from controlplane.env import LocalTotp
from controlplane.keyring import seal
from controlplane.ledger.actions import append_entry
from controlplane.tenancy import every_tenant

#: RFC 4226, 4: 160 bits.
KEY_BYTES: Final = 20
#: Between the password and the code.
PENDING_LIFETIME: Final = timedelta(minutes=5)
_PENDING: Final = "sign_in_pending"


def needs_code(user: User) -> bool:
    """True when a password alone doesn't let this person in."""
    return bool(settings.NARROWGATE.local_totp is LocalTotp.REQUIRED) or has_authenticator(user)


def has_authenticator(user: User) -> bool:
    """True once the person has proved that their app shows our codes."""
    return bool(TotpDevice.objects.filter(user=user, confirmed=True).exists())


def remember_pending(request: HttpRequest, user: User, *, next_path: str) -> None:
    """The password was right; who it was waits in the session for the code."""
    request.session.cycle_key()
    request.session[_PENDING] = {"user": str(user.pk), "next": next_path, "at": timezone.now().timestamp()}


def pending(request: HttpRequest) -> tuple[User, str] | None:
    """Who has yet to show a code, and where they were going; None when that was too long ago."""
    kept = request.session.get(_PENDING)
    if not isinstance(kept, dict) or timezone.now().timestamp() - kept["at"] > PENDING_LIFETIME.total_seconds():
        return None
    user = User.objects.filter(pk=UUID(kept["user"]), is_active=True).first()
    return None if user is None else (user, kept["next"])


def forget_pending(request: HttpRequest) -> None:
    """The code was right."""
    request.session.pop(_PENDING, None)


@transaction.atomic
def new_key(user: User) -> bytes:
    """A new key for the person's app, to be shown now and never again: whoever asks again gets another.

    Raises `PermissionError` for whoever has confirmed one already.
    """
    User.objects.select_for_update().get(pk=user.pk)
    kept = TotpDevice.objects.filter(user=user).first()
    device = kept or TotpDevice(user=user, name="authenticator", confirmed=False)
    if device.confirmed:
        raise PermissionError("an authenticator that works isn't replaced")
    key = secrets.token_bytes(KEY_BYTES)
    device.sealed_secret = seal(key, context=TotpDevice.context_for(user.pk))
    device.save()
    return key


def key_text(key: bytes) -> str:
    """As people type it: base32 in groups of four."""
    text = base64.b32encode(key).decode()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def otpauth_url(key: bytes, user: User) -> str:
    """As authenticator apps take it."""
    query = urlencode({"secret": base64.b32encode(key).decode(), "issuer": "Narrowgate", "digits": CODE_DIGITS})
    return f"otpauth://totp/{quote(f'Narrowgate:{user.email}')}?{query}"


def qr_code(url: str) -> SafeString:
    """As a phone's camera takes it: an SVG element, black on white in a dark theme too."""
    code = segno.make(url, micro=False, error="m")
    drawn = code.svg_inline(scale=4, dark="#000", light="#fff", title="QR code of the key")
    return mark_safe(drawn)  # noqa: S308  # nothing of the URL but black squares is in it


@transaction.atomic
def verify_code(user: User, code: str) -> bool:
    """True for the code that the person's app shows now, once. A first right code confirms the app."""
    device = TotpDevice.objects.select_for_update().filter(user=user).first()
    if device is None:
        return False
    was_confirmed = device.confirmed
    is_right = bool(device.verify_token(code))
    if is_right and not was_confirmed:
        tell(user, kind="authenticator.added", acting_user=user, told={})
    return is_right


@transaction.atomic
def remove_authenticator(user: User, *, acting_user: User | None) -> bool:
    """For whoever lost theirs: the next sign-in sets up another."""
    removed = bool(TotpDevice.objects.filter(user=user).delete()[0])
    if removed:
        tell(user, kind="authenticator.removed", acting_user=acting_user, told={})
    return removed


def note_use(user: User, *, method: SignInMethod, address: str) -> None:
    """An entry in the ledger of each tenant of the person, an operator's in the platform's, and an alert once kept."""
    from accounts.tasks import alert_break_glass

    with transaction.atomic():
        tell(user, kind="break_glass.used", acting_user=user, told={"method": method.value, "address": address})
        arguments = {"user_id": str(user.pk), "method": method.value, "address": address}
        # Whoever mends a broken broker must get in while it is broken.
        transaction.on_commit(lambda: alert_break_glass.apply_async(kwargs=arguments, retry=False), robust=True)


def tell(user: User, *, kind: str, acting_user: User | None, told: dict[str, str]) -> None:
    """An entry in the ledger of each of the person's tenants; an operator's in the platform's too."""
    with every_tenant():
        roles = dict(Membership.objects.filter(user=user).values_list("tenant", "role"))
    for ledger in ledgers_of(user, is_operators=user.is_superuser):
        role = {"role": roles[ledger.pk]} if ledger else {"is_operator": user.is_superuser}
        append_entry(
            tenant=ledger,
            kind=kind,
            acting_user=acting_user,
            subject=f"user:{user}",
            before=None,
            after={**told, **role},
        )
