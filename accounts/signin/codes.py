"""The form that asks for a code of an authenticator app, and what shows a key to one."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from accounts.signin import breakglass
from accounts.signin.models import CODE_DIGITS

WRONG_CODE: Final = "That code isn't right, or came too soon after a wrong one. Wait for the next."


class CodeForm(forms.Form):
    """The six digits of an authenticator app."""

    code = forms.RegexField(
        rf"^[0-9]{{{CODE_DIGITS}}}\Z",
        label="Code of your authenticator app",
        error_messages={"invalid": f"Enter the {CODE_DIGITS} digits that your app shows now."},
        widget=UnfoldAdminTextInputWidget(
            attrs={"autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": ""}
        ),
    )


def enrolment(request: HttpRequest, user: User) -> dict[str, Any]:
    """A new key when the page is fetched; the answer to a wrong code only offers another."""
    if breakglass.has_authenticator(user):
        return {}
    return shown(breakglass.new_key(user), user) if request.method == "GET" else {"may_renew": True}


def shown(key: bytes, user: User) -> dict[str, Any]:
    """The key as `accounts/code.html` shows it."""
    url = breakglass.otpauth_url(key, user)
    return {"key_text": breakglass.key_text(key), "otpauth_url": url, "qr_code": breakglass.qr_code(url)}
