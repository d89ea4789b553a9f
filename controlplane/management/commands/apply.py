"""`manage.py apply -f FILE [--dry-run]`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.apply.documents import ManifestError
from controlplane.apply.run import apply_file


class Command(BaseCommand):
    """Bring about what YAML documents describe; the whole file or nothing."""

    help = "Create and change tenants, users, agents, targets, policies … as YAML documents describe them."

    def add_arguments(self, parser: CommandParser) -> None:
        """-f may be given several times; each file is a transaction of its own."""
        parser.add_argument("-f", "--file", action="append", required=True, type=Path, help="a YAML file")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")

    def handle(self, *_: Any, **options: Any) -> None:
        """Apply the files in their order."""
        for path in options["file"]:
            try:
                changes = apply_file(path, environ=os.environ, dry_run=options["dry_run"], tell=self.stdout.write)
            except ManifestError as error:
                raise CommandError(str(error)) from None
            told = "no changes" if not changes else f"{changes} {'change' if changes == 1 else 'changes'}"
            self.stdout.write(f"{path.name}: {told}{', dry run: nothing is kept' if options['dry_run'] else ''}")
