"""What is used of the limits that policies set: for whom; how much is in Redis."""

import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0008_trusts_of_other_kinds"),
        ("policies", "0006_approvals"),
        ("targets", "0002_tenant_isolation"),
    ]

    operations = [
        migrations.CreateModel(
            name="Budget",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("rule", models.CharField(max_length=200)),
                (
                    "per",
                    models.CharField(
                        choices=[
                            ("session", "session"),
                            ("minute", "minute"),
                            ("hour", "hour"),
                            ("day", "day"),
                            ("week", "week"),
                            ("month", "month"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "of",
                    models.CharField(
                        choices=[
                            ("agent", "agent"),
                            ("target", "target"),
                            ("agent_on_target", "agent on target"),
                            ("rule", "rule"),
                        ],
                        max_length=16,
                    ),
                ),
                ("limits", models.JSONField(help_text="How much in a period, by measure, as the rule last said.")),
                ("last_used_at", models.DateTimeField()),
                (
                    "agent",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="accounts.agent",
                    ),
                ),
                (
                    "target",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
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
                "ordering": ["-last_used_at"],
                "indexes": [models.Index(fields=["tenant", "-last_used_at"], name="budget_recent")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant", "rule", "per", "of", "agent", "target"),
                        name="budget_once",
                        nulls_distinct=False,
                    )
                ],
            },
        ),
        migrations.RunSQL(
            sql="SELECT narrowgate_isolate('policies_budget')",
            reverse_sql="SELECT narrowgate_expose('policies_budget')",
        ),
    ]
