"""What an operation was understood to be, for replaying a policy over it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0004_withdrawn_at")]

    operations = [
        migrations.AddField(
            model_name="operation",
            name="facts",
            field=models.JSONField(help_text="What it was understood to be: `policies.engine.Operation`.", null=True),
        ),
    ]
