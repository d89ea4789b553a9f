"""Signing in with a local account, as a browser does."""

from __future__ import annotations

from base64 import b32decode
from typing import Any

from django.test import Client
from django_otp.oath import TOTP

from accounts.models import User

PASSWORD = "a-long-enough-phrase"
LOGIN = "/admin/login/"
CODE = "/sign-in/code/"


def password_of(user: User, browser: Client, *, password: str = PASSWORD, **query: str) -> Any:
    return browser.post(LOGIN, {"username": user.email, "password": password, **query})


def is_signed_in(browser: Client) -> bool:
    return bool(browser.get("/admin/").status_code == 200)


def code_for(key_text: str) -> str:
    return f"{TOTP(b32decode(key_text.replace(' ', ''))).token():06}"


def key_shown(browser: Client, url: str = CODE) -> str:
    return str(browser.get(url).context["key_text"])
