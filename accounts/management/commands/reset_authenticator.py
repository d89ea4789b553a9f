"""`manage.py reset_authenticator ada@acme.example`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from accounts.signin.breakglass import remove_authenticator


class Command(BaseCommand):
    """Take a person's lost authenticator away, so that the next sign-in sets up another."""

    help = "Take a person's lost authenticator away. Their next sign-in by password sets up another."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose."""
        parser.add_argument("email")

    def handle(self, *_: Any, **options: Any) -> None:
        """Remove it as the system."""
        user = User.objects.filter(email=options["email"].lower()).first()
        if user is None or not remove_authenticator(user, acting_user=None):
            raise CommandError(f"{options['email']} has no authenticator")
        self.stdout.write(f"{user} sets up another at the next sign-in")
