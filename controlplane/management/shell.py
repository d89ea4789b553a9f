"""The base of commands that change something: the ledger then says that it came from the command line."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from controlplane.origin import Channel, Origin, originating


class ShellCommand(BaseCommand):
    """Runs as `Channel.CLI`, also when it is called by another program of ours."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """As Django's."""
        with originating(Origin(Channel.CLI)):
            return super().execute(*args, **options)
