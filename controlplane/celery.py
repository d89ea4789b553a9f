"""The Celery app: `celery --app controlplane.celery:app worker`, and beat with the schedule in the database."""

from __future__ import annotations

import os
import sys

from celery import Celery
from celery.signals import beat_init, celeryd_init, setup_logging
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

app = Celery("narrowgate")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
#: A task's log lines carry its id and that of the request that sent it.
app.steps["worker"].add(DjangoStructLogInitStep)


@celeryd_init.connect
@beat_init.connect
def refuse_the_owner(**_: object) -> None:
    """Celery goes on after an exception in a receiver, so this is an exit."""
    from controlplane.database.roles import RoleError, refuse_owner

    try:
        refuse_owner()
    except RoleError as error:
        sys.exit(f"narrowgate: {error}")


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Being connected keeps Celery from replacing the logging that Django has set up."""
