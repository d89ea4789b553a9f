"""The tables can be taken back, and are what the models say."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection

#: From the top layer down: each needs those after it.
LABELS = ("agent_sessions", "policies", "targets")


@pytest.mark.django_db(transaction=True)
def test_the_tables_of_each_app_go_and_come_back() -> None:
    tables = {model._meta.db_table for label in LABELS for model in apps.get_app_config(label).get_models()}
    assert tables <= set(connection.introspection.table_names())
    for label in LABELS:
        call_command("migrate", label, "zero", verbosity=0)
    assert not tables & set(connection.introspection.table_names())
    call_command("migrate", verbosity=0)
    assert tables <= set(connection.introspection.table_names())


@pytest.mark.django_db
def test_the_migrations_make_what_the_models_say() -> None:
    call_command("makemigrations", *LABELS, check=True, dry_run=True, verbosity=0)
