"""The app's configuration."""

from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    """Policies and their versions."""

    name = "policies"
    label = "policies"
    verbose_name = "Policies"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have people told of what happens to approvals, and open pages and requests look again."""
        from policies.approvals import receivers as looking  # noqa: F401  # registers its receivers
        from policies.inbox import waking  # noqa: F401  # likewise
        from policies.notifying import receivers as telling  # noqa: F401  # likewise
