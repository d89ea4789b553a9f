"""When a right that a session lived on was taken away."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0003_tenant_isolation")]

    operations = [
        migrations.AddField(
            model_name="agentsession",
            name="withdrawn_at",
            field=models.DateTimeField(help_text="When a right that it lived on was taken away.", null=True),
        ),
    ]
