from django.db import migrations

GUARD = "SELECT narrowgate_make_append_only('policies_policyversion')"

UNGUARD = """
DROP TRIGGER refuse_truncate ON policies_policyversion;
DROP TRIGGER refuse_change ON policies_policyversion;
"""


class Migration(migrations.Migration):
    dependencies = [("policies", "0001_initial"), ("ledger", "0002_append_only")]

    operations = [migrations.RunSQL(sql=GUARD, reverse_sql=UNGUARD)]
