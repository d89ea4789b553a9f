"""The control plane as a Django app: it holds the commands that belong to no other app."""

from __future__ import annotations

from django.apps import AppConfig


class ControlplaneConfig(AppConfig):
    """Makes Celery's app the current one in every process, so that a task sent by web reaches our broker."""

    name = "controlplane"
    verbose_name = "Control plane"

    def ready(self) -> None:
        """Load the Celery app."""
        from controlplane import celery

        celery.app.set_default()
