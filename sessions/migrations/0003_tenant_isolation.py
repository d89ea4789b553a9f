"""Row-level security for this app's tables: see accounts 0002_tenant_isolation."""

from django.db import migrations

TABLES = ("agentsession", "contentsegment", "journal", "journalbatch", "operation", "sessionrefusal")


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0002_append_only"), ("accounts", "0002_tenant_isolation")]

    operations = [
        migrations.RunSQL(
            sql=f"SELECT narrowgate_isolate('agent_sessions_{table}')",
            reverse_sql=f"SELECT narrowgate_expose('agent_sessions_{table}')",
        )
        for table in TABLES
    ]
