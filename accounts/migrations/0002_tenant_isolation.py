"""Row-level security: a statement sees and writes the rows of the tenants that it is in, and no others.

`narrowgate_isolate(table)` is for the migrations of other apps too; `narrowgate_expose(table)` takes it back. The
settings are written by `controlplane.database`; unset, no row is there. FORCE, because the application owns the tables.
A migration that moves rows begins with `SELECT set_config('app.system', 'on', true)`.
"""

from django.db import migrations

FUNCTIONS = """
CREATE FUNCTION narrowgate_tenants() RETURNS uuid[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT string_to_array(nullif(current_setting('app.tenant', true), ''), ',')::uuid[]
$$;

CREATE FUNCTION narrowgate_is_system() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(current_setting('app.system', true), '') = 'on'
$$;

-- Each function in a subquery of its own: it is then called once for a statement, not for each row.
CREATE FUNCTION narrowgate_isolate(tab regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tab);
    EXECUTE format('CREATE POLICY tenant_isolation ON %s USING (tenant_id = ANY ((SELECT narrowgate_tenants())::uuid[])'
                   ' OR (SELECT narrowgate_is_system()))', tab);
END
$$;

CREATE FUNCTION narrowgate_expose(tab regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP POLICY tenant_isolation ON %s', tab);
    EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', tab);
END
$$;
"""

DROP_FUNCTIONS = """
DROP FUNCTION narrowgate_expose(regclass);
DROP FUNCTION narrowgate_isolate(regclass);
DROP FUNCTION narrowgate_is_system();
DROP FUNCTION narrowgate_tenants();
"""

TABLES = ("agent", "agenttoken", "apitoken", "membership", "oidctrust", "trustrule")


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.RunSQL(sql=FUNCTIONS, reverse_sql=DROP_FUNCTIONS),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('accounts_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('accounts_{table}')",
            )
            for table in TABLES
        ),
    ]
