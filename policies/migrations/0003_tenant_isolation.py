"""Row-level security for this app's tables: see accounts 0002_tenant_isolation."""

from django.db import migrations

TABLES = ("policy", "policyversion")


class Migration(migrations.Migration):
    dependencies = [("policies", "0002_append_only"), ("accounts", "0002_tenant_isolation")]

    operations = [
        migrations.RunSQL(
            sql=f"SELECT narrowgate_isolate('policies_{table}')",
            reverse_sql=f"SELECT narrowgate_expose('policies_{table}')",
        )
        for table in TABLES
    ]
