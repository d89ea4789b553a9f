from django.db import migrations

GUARD = "SELECT narrowgate_make_append_only('agent_sessions_journalbatch')"

UNGUARD = """
DROP TRIGGER refuse_truncate ON agent_sessions_journalbatch;
DROP TRIGGER refuse_change ON agent_sessions_journalbatch;
"""


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0001_initial"), ("ledger", "0002_append_only")]

    operations = [migrations.RunSQL(sql=GUARD, reverse_sql=UNGUARD)]
