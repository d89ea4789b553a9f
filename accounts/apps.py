"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Tenants, people, agents."""

    name = "accounts"
    verbose_name = "Accounts"

    def ready(self) -> None:
        """Hear of each login and logout, whoever makes it."""
        from django.contrib.auth.signals import user_logged_in, user_logged_out

        from accounts.signin.sessions import note_login, note_logout

        user_logged_in.connect(note_login, dispatch_uid="accounts.signin")
        user_logged_out.connect(note_logout, dispatch_uid="accounts.signin")
