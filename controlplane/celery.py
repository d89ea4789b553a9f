"""The Celery app: `celery --app controlplane.celery:app worker`, and beat with the schedule in the database."""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import setup_logging
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

app = Celery("narrowgate")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
#: A task's log lines carry its id and that of the request that sent it.
app.steps["worker"].add(DjangoStructLogInitStep)


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Being connected keeps Celery from replacing the logging that Django has set up."""
