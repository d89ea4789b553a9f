"""The app's configuration."""

from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    """Policies and their versions."""

    name = "policies"
    label = "policies"
    verbose_name = "Policies"
    default_auto_field = "django.db.models.BigAutoField"
