"""The app's configuration."""

from django.apps import AppConfig


class TargetsConfig(AppConfig):
    """Targets, credentials and workers."""

    name = "targets"
    label = "targets"
    verbose_name = "Targets"
    default_auto_field = "django.db.models.BigAutoField"
