"""`manage.py migrate`: Django's, as the role that owns the tables; then the application's role gets its rights."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import connections

from controlplane.database.roles import NotTheOwner, RoleError, owned_objects, owning, role_of, settle_grants


class Command(migrate.Command):
    """As DATABASE_OWNER_URL says; DATABASE_URL names the role that gets the rights."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate and grant. Rights are settled as well when a migration fails: those before it stay."""
        try:
            self._migrate(*args, **options)
        except RoleError as error:
            raise CommandError(str(error)) from None

    def _migrate(self, *args: Any, **options: Any) -> None:
        alias = options["database"]
        application = role_of(connections[alias])
        with owning(alias) as connection:
            owner = role_of(connection)
            if owner == application:
                self.stderr.write(
                    self.style.WARNING(f"{owner} owns the tables that it works on: set DATABASE_OWNER_URL")
                )
                super().handle(*args, **options)
                return
            if objects := owned_objects(connection, role=application):
                raise NotTheOwner(application, owner, objects)
            try:
                super().handle(*args, **options)
            finally:
                settle_grants(connection, role=application)
