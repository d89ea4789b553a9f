"""Row-level security for this app's tables: see accounts 0002_tenant_isolation."""

from django.db import migrations

TABLES = ("credential", "jointoken", "proxyworker", "target")


class Migration(migrations.Migration):
    dependencies = [("targets", "0001_initial"), ("accounts", "0002_tenant_isolation")]

    operations = [
        migrations.RunSQL(
            sql=f"SELECT narrowgate_isolate('targets_{table}')",
            reverse_sql=f"SELECT narrowgate_expose('targets_{table}')",
        )
        for table in TABLES
    ]
