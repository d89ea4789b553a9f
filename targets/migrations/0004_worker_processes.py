"""The processes of workers. Every worker that there is has one."""

import django.db.models.deletion
import uuid
from django.db import migrations, models

AS_SYSTEM = "SELECT set_config('app.system', 'on', true)"
ONE_EACH = """
    INSERT INTO targets_workerprocess
      (id, tenant_id, worker_id, number, linked_at, last_seen_at, reported_sessions, reported_journal_bytes,
       created_at, updated_at)
    SELECT gen_random_uuid(), tenant_id, id, 0, last_seen_at, last_seen_at, reported_sessions, reported_journal_bytes,
       now(), now()
    FROM targets_proxyworker WHERE last_seen_at IS NOT NULL"""


class Migration(migrations.Migration):
    dependencies = [("targets", "0003_column_labels")]

    operations = [
        migrations.CreateModel(
            name="WorkerProcess",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("number", models.PositiveSmallIntegerField()),
                ("link_id", models.UUIDField(null=True)),
                ("linked_at", models.DateTimeField()),
                ("last_seen_at", models.DateTimeField()),
                ("reported_sessions", models.PositiveIntegerField(default=0)),
                ("reported_journal_bytes", models.PositiveBigIntegerField(default=0)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="accounts.tenant"
                    ),
                ),
                (
                    "worker",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="processes",
                        to="targets.proxyworker",
                    ),
                ),
            ],
            options={
                "ordering": ["number"],
                "constraints": [
                    models.UniqueConstraint(fields=("worker", "number"), name="worker_process_unique"),
                ],
            },
        ),
        migrations.RunSQL(
            sql="SELECT narrowgate_isolate('targets_workerprocess')",
            reverse_sql="SELECT narrowgate_expose('targets_workerprocess')",
        ),
        migrations.RunSQL(sql=[AS_SYSTEM, ONE_EACH], reverse_sql=migrations.RunSQL.noop),
    ]
