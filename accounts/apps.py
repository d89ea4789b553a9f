"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Tenants, people, agents."""

    name = "accounts"
    verbose_name = "Accounts"
