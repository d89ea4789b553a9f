"""The app's configuration. Its label keeps clear of django.contrib.sessions."""

from django.apps import AppConfig


class AgentSessionsConfig(AppConfig):
    """Sessions of agents."""

    name = "sessions"
    label = "agent_sessions"
    verbose_name = "Sessions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have rights that are taken away end sessions at once, simulations run, and chats know the kill switch."""
        from sessions import receivers, replay_tasks  # noqa: F401  # registers them
        from sessions.killing import chat  # noqa: F401  # likewise
