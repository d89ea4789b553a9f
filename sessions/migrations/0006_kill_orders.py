"""Orders to stop, and the sessions that each of them found."""

import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_tenant_requires_review"),
        ("agent_sessions", "0005_operation_facts"),
        ("targets", "0002_tenant_isolation"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="KillOrder",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "scope",
                    models.CharField(
                        choices=[
                            ("session", "a session"),
                            ("agent", "an agent"),
                            ("target", "a target"),
                            ("tenant", "the whole tenant"),
                        ],
                        max_length=8,
                    ),
                ),
                ("reason", models.CharField(help_text="The agents are told.", max_length=200)),
                ("ordered_at", models.DateTimeField()),
                (
                    "session_count",
                    models.PositiveIntegerField(help_text="How many ran at that moment.", verbose_name="sessions"),
                ),
                ("lifted_at", models.DateTimeField(blank=True, null=True)),
                ("lift_reason", models.CharField(blank=True, max_length=200)),
                (
                    "agent",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="accounts.agent",
                    ),
                ),
                (
                    "lifted_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "ordered_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="agent_sessions.agentsession",
                    ),
                ),
                (
                    "target",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="targets.target",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="accounts.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ["-ordered_at"],
            },
        ),
        migrations.CreateModel(
            name="KilledSession",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "session",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="agent_sessions.agentsession"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="accounts.tenant"
                    ),
                ),
                (
                    "order",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="killed",
                        to="agent_sessions.killorder",
                    ),
                ),
            ],
            options={
                "ordering": ["order", "created_at"],
            },
        ),
        migrations.AddIndex(
            model_name="killorder",
            index=models.Index(fields=["tenant", "-ordered_at"], name="kill_order_recent"),
        ),
        migrations.AddIndex(
            model_name="killorder",
            index=models.Index(
                condition=models.Q(("lifted_at", None), models.Q(("scope", "session"), _negated=True)),
                fields=["tenant"],
                name="kill_order_in_force",
            ),
        ),
        migrations.AddConstraint(
            model_name="killorder",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("agent", None), ("scope", "session"), ("session__isnull", False), ("target", None)),
                    models.Q(("agent__isnull", False), ("scope", "agent"), ("session", None), ("target", None)),
                    models.Q(("agent", None), ("scope", "target"), ("session", None), ("target__isnull", False)),
                    models.Q(("agent", None), ("scope", "tenant"), ("session", None), ("target", None)),
                    _connector="OR",
                ),
                name="kill_order_names_its_subject",
            ),
        ),
        migrations.AddConstraint(
            model_name="killedsession",
            constraint=models.UniqueConstraint(fields=("order", "session"), name="killed_session_once"),
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('agent_sessions_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('agent_sessions_{table}')",
            )
            for table in ("killorder", "killedsession")
        ),
        migrations.RunSQL(
            sql="SELECT narrowgate_make_append_only('agent_sessions_killedsession')",
            reverse_sql=migrations.RunSQL.noop,
        ),
    ]
