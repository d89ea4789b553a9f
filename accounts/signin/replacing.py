"""Another authenticator in place of one that works: a code of the old one first, then one of the new one.

Between the two, the session, which is on the server, keeps of which key a right code was shown, and the new key,
sealed. Until a code confirms the new key, the old one is good, and it alone. Of two sessions that have begun, the first
replaces it.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from accounts.models import User
from accounts.signin.breakglass import KEY_BYTES, PENDING_LIFETIME, tell, verify_code
from accounts.signin.models import TotpDevice
from controlplane.keyring import seal

_REPLACING: Final = "authenticator_replacing"


def begin(request: HttpRequest, user: User, code: str) -> bool:
    """True for the code that the present app shows now, once; then this session may have another key, for a while."""
    if not verify_code(user, code):
        return False
    device = TotpDevice.objects.get(user=user)
    request.session[_REPLACING] = {"of": _digest(device), "at": timezone.now().timestamp(), "key": ""}
    return True


def has_begun(request: HttpRequest) -> bool:
    """Whether this session has shown a code of the present app, and lately."""
    return _kept(request) is not None


def offer_key(request: HttpRequest, user: User) -> bytes:
    """A new key, to be shown now and never again: whoever asks again gets another.

    Raises `PermissionError` before `begin`, or too long after it.
    """
    kept = _kept(request)
    if kept is None:
        raise PermissionError("no code of the present authenticator was shown")
    key = secrets.token_bytes(KEY_BYTES)
    request.session[_REPLACING] = {**kept, "key": seal(key, context=TotpDevice.context_for(user.pk))}
    return key


def confirm(request: HttpRequest, user: User, code: str, *, address: str) -> bool:
    """True for a code of the key that was offered last, from now on the only one; an alert once kept."""
    kept = _kept(request)
    if kept is None or not kept["key"] or not _replace(user, kept=kept, code=code, address=address):
        return False
    del request.session[_REPLACING]
    return True


@transaction.atomic
def _replace(user: User, *, kept: dict[str, Any], code: str, address: str) -> bool:
    from accounts.tasks import alert_authenticator_replaced

    device = TotpDevice.objects.select_for_update().filter(user=user, confirmed=True).first()
    if device is None or _digest(device) != kept["of"] or not device.replace_key(kept["key"], code):
        return False
    tell(user, kind="authenticator.replaced", acting_user=user, told={"address": address})
    arguments = {"user_id": str(user.pk), "address": address}
    transaction.on_commit(lambda: alert_authenticator_replaced.apply_async(kwargs=arguments, retry=False), robust=True)
    return True


def _kept(request: HttpRequest) -> dict[str, Any] | None:
    kept = request.session.get(_REPLACING)
    if not isinstance(kept, dict) or timezone.now().timestamp() - kept["at"] > PENDING_LIFETIME.total_seconds():
        return None
    return kept


def _digest(device: TotpDevice) -> str:
    """Which key the device has."""
    return hashlib.sha256(device.sealed_secret.encode()).hexdigest()
