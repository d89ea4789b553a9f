"""`manage.py issue_token --tenant acme --agent reporter [--ttl 3600]`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_scopes import scope

from accounts import actions
from accounts.models import Agent, Tenant
from controlplane.errors import Refusal


class Command(BaseCommand):
    """Issue a token for an agent and print it, alone on its line, so that a script can take it."""

    help = "Issue a token for an agent and print it. It is shown once: only its hash is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        """The agent, and for how long."""
        parser.add_argument("--tenant", required=True, help="the tenant's slug")
        parser.add_argument("--agent", required=True, help="the agent's name")
        parser.add_argument("--ttl", type=int, default=3600, help="seconds until it expires (default: 3600)")
        parser.add_argument("--label", default="", help="what it is for")

    def handle(self, *_: Any, **options: Any) -> None:
        """Issue it as the system."""
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"there is no tenant {options['tenant']}")
        with scope(tenant=tenant):
            agent = Agent.objects.filter(name=options["agent"]).select_related("tenant").first()
            if agent is None:
                raise CommandError(f"there is no agent {options['agent']} in tenant {tenant}")
            try:
                _token, made = actions.issue_agent_token(
                    agent, acting_user=None, lifetime=timedelta(seconds=options["ttl"]), label=options["label"]
                )
            except (Refusal, ValidationError) as error:
                raise CommandError(
                    " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
                ) from None
        self.stdout.write(made.text)
