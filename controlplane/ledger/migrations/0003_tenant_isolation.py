"""Row-level security for this app's tables: see accounts 0002_tenant_isolation."""

from django.db import migrations

TABLES = ("ledgerentry", "ledgerhead")


class Migration(migrations.Migration):
    dependencies = [("ledger", "0002_append_only"), ("accounts", "0002_tenant_isolation")]

    operations = [
        migrations.RunSQL(
            sql=f"SELECT narrowgate_isolate('ledger_{table}')",
            reverse_sql=f"SELECT narrowgate_expose('ledger_{table}')",
        )
        for table in TABLES
    ]
