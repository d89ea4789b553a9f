"""PostgreSQL keeps the ledger append-only, whatever the application does.

`narrowgate_make_append_only(table)` is for the migrations of other apps too:
`RunSQL("SELECT narrowgate_make_append_only('agent_sessions_journalbatch')", RunSQL.noop)`; the triggers go with their table.
"""

from django.db import migrations

FUNCTIONS = """
CREATE FUNCTION narrowgate_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = '42501';
END
$$;

CREATE FUNCTION narrowgate_make_append_only(tab regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %s'
                   ' FOR EACH ROW EXECUTE FUNCTION narrowgate_refuse_change()', tab);
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION narrowgate_refuse_change()', tab);
END
$$;
"""

DROP_FUNCTIONS = """
DROP FUNCTION narrowgate_make_append_only(regclass);
DROP FUNCTION narrowgate_refuse_change();
"""

GUARD = "SELECT narrowgate_make_append_only('ledger_ledgerentry')"

UNGUARD = """
DROP TRIGGER refuse_truncate ON ledger_ledgerentry;
DROP TRIGGER refuse_change ON ledger_ledgerentry;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]

    operations = [
        migrations.RunSQL(sql=FUNCTIONS, reverse_sql=DROP_FUNCTIONS),
        migrations.RunSQL(sql=GUARD, reverse_sql=UNGUARD),
    ]
