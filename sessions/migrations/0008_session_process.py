"""Which process of its worker a session runs in."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0007_operation_approval")]

    operations = [
        migrations.AddField(
            model_name="agentsession",
            name="process",
            field=models.PositiveSmallIntegerField(default=0, help_text="Which of the worker's processes, from 0 on."),
        ),
    ]
