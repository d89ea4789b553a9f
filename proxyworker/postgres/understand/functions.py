"""Which functions are pure, harmless, or a hazard. A name without a schema finds pg_catalog first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from policies.engine import Hazard

#: Functions of pg_catalog without effects: immutable or stable in every form, and written in C or SQL by PostgreSQL.
#: Not among them: what runs a query given as text, shows the server's files, statistics or address, or is internal.
#: A test holds the list against a real server.
PURE_FUNCTIONS: Final = frozenset(Path(__file__).with_name("pure_functions.txt").read_text().split())

#: Volatile, yet nobody has to allow them: the time, chance, sequences' next numbers, sizes, and what connection pools
#: call when a client gives its connection back.
HARMLESS_FUNCTIONS: Final = PURE_FUNCTIONS | frozenset(
    """
    array_sample array_shuffle clock_timestamp currval gen_random_uuid lastval nextval pg_advisory_unlock_all
    pg_collation_actual_version pg_database_size pg_indexes_size pg_is_in_recovery pg_partition_ancestors
    pg_partition_tree pg_relation_size pg_sequence_last_value pg_table_size pg_total_relation_size random random_normal
    setseed timeofday txid_status pg_xact_status uuidv4 uuidv7
    """.split()  # noqa: SIM905 - a list of words reads better
)

#: By name, in whatever schema an extension may have put it.
_HAZARDS: Final = tuple(
    (re.compile("|".join(patterns.split())), hazard)
    for hazard, patterns in (
        (Hazard.SERVER_FILE, "pg_(read|ls|stat_file|file|logdir)_?.* pg_current_logfile lo_(import|export)"),
        (Hazard.LARGE_OBJECT, "lo_.* loread lowrite"),
        (Hazard.DBLINK, "dblink.* postgres_fdw_.*"),
        (Hazard.SLEEP, "pg_sleep.*"),
        (
            Hazard.DYNAMIC_SQL,
            "(query|table|schema|database|cursor)_to_xml.* ts_stat ts_rewrite crosstab.* connectby xpath_table",
        ),
        (Hazard.SYSTEM_SETTING, "set_config"),
        (Hazard.SEARCH_PATH, "set_config"),
        (Hazard.ROLE_CHANGE, "set_config"),
        (
            Hazard.SUPERUSER_FUNCTION,
            """
            binary_upgrade_.* pg_(terminate|cancel|log)_backend.* pg_backup_.* pg_copy_.*_slot pg_create_.* pg_drop_.*
            pg_export_snapshot pg_extension_config_dump pg_hba_file_rules pg_ident_file_mappings
            pg_import_system_collations pg_log_standby_snapshot pg_logical_.* pg_nextoid pg_promote pg_reload_conf
            pg_replication_.* pg_reset.* pg_rotate_logfile pg_show_all_file_settings pg_stat_(reset|clear|force).*
            pg_stop_making_pinned_objects pg_switch_wal pg_switch_xlog pg_sync_replication_slots pg_wal_.*
            """,
        ),
    )
)

#: What a function may be of which nothing is known.
ANY_HAZARDS: Final = tuple(dict.fromkeys(hazard for _, hazard in _HAZARDS))

PG_CATALOG: Final = "pg_catalog"

#: Functions of pg_catalog that take a row of any table and show what is in it: `t.to_jsonb` is `to_jsonb(t)`.
#: A test holds the list against a real server.
ROW_FUNCTIONS: Final = frozenset(
    """
    any_value array_agg concat hash_record json_agg json_agg_strict json_build_array json_build_object jsonb_agg
    jsonb_agg_strict jsonb_build_array jsonb_build_object max min quote_literal quote_nullable record_out record_send
    row_to_json to_json to_jsonb
    """.split()  # noqa: SIM905 - a list of words reads better
)
#: Names of fields that PostgreSQL's own functions give their rows: `(jsonb_each(x)).key` calls nothing.
FIELDS: Final = frozenset({"key", "value", "ordinality", "grantor", "grantee", "privilege_type", "is_grantable"})


def is_pure(schema: str, name: str) -> bool:
    """Whether calling it has no effect at all."""
    return schema in ("", PG_CATALOG) and name in PURE_FUNCTIONS


def is_harmless(schema: str, name: str) -> bool:
    """Whether nobody has to allow its being called."""
    return schema in ("", PG_CATALOG) and name in HARMLESS_FUNCTIONS


def hazards_of(name: str) -> list[Hazard]:
    """What is dangerous about a function of this name."""
    return [hazard for pattern, hazard in _HAZARDS if pattern.fullmatch(name)]
