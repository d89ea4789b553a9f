"""The app's configuration."""

from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    """Policies and their versions."""

    name = "policies"
    label = "policies"
    verbose_name = "Policies"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have people told of what happens to approvals, and open pages look again."""
        from policies.inbox import waking  # noqa: F401  # registers its receivers
        from policies.notifying import receivers  # noqa: F401  # likewise
