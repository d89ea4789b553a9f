"""What became of the approval that an operation needed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0006_kill_orders")]

    operations = [
        migrations.AddField(
            model_name="operation",
            name="approval_id",
            field=models.UUIDField(null=True, verbose_name="approval"),
        ),
        migrations.AddField(
            model_name="operation",
            name="approval_state",
            field=models.CharField(
                blank=True, default="", help_text="What became of the approval it needed.", max_length=16
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="operation",
            name="approval_reason",
            field=models.TextField(blank=True, default=""),
            preserve_default=False,
        ),
    ]
