"""What the target's own catalog says of columns whose values are counted: where they are, and what else shows them.

Names become numbers (table OID, attribute number), which results name their columns by. Tables that inherit show the
same values, and so do the tables that they inherit from; so may views, whose definitions are looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from policies.engine.columns import split_column
from proxyworker.net.handshake import HandshakeProtocol, PeerGone
from proxyworker.postgres.asking import Refused, ask
from proxyworker.postgres.errors import TargetBrokeProtocol, TargetError
from proxyworker.postgres.understand.catalog import relation_name
from proxyworker.postgres.upstream import connect
from proxyworker.wire.postgres import frontend
from proxyworker.wire.postgres.errors import WireError

if TYPE_CHECKING:
    from proxyworker.contract import SessionGrant

#: All of it, connecting included: the first statement under such a limit waits for it.
LOOK_SECONDS: Final = 15.0
STATEMENT_MILLISECONDS: Final = 10_000
#: Relations that are known by number; a row of what is beyond counts as new values.
MAX_RELATIONS: Final = 5_000
#: What PostgreSQL brings has smaller numbers (FirstNormalObjectId).
FIRST_OWN_OID: Final = 16_384

#: Parts of what `PostgreSQL` itself shows, which hold values of many rows.
_STATISTICS: Final = ("pg_stats", "pg_statistic", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic_ext_data")
_BEGIN: Final = f"BEGIN READ ONLY; SET LOCAL statement_timeout = {STATEMENT_MILLISECONDS}".encode()
#: `$1` to `$3`: schemas, tables and columns. A rule of a view names the columns that it uses, but no whole rows, which
#: show in its tree alone; what it makes of them (`gathers`) does as well. A view of a view multiplies (`weight`).
_LOOK: Final = rb"""
WITH RECURSIVE wanted AS (
  SELECT w.place, a.attrelid AS oid, a.attname
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w (schema, name, attname, place)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = w.attname AND a.attnum > 0
), below (place, oid, attname) AS (
  SELECT * FROM wanted
  UNION SELECT b.place, i.inhrelid, b.attname FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid
), around (place, oid, attname) AS (
  SELECT * FROM below
  UNION SELECT b.place, i.inhparent, b.attname FROM around b JOIN pg_catalog.pg_inherits i ON i.inhrelid = b.oid
), counted AS (
  SELECT b.place, b.oid, a.attnum, a.attname
  FROM around b JOIN pg_catalog.pg_attribute a ON a.attrelid = b.oid AND a.attname = b.attname AND a.attnum > 0
), views AS (
  SELECT r.ev_class AS oid, d.refobjid, d.refobjsubid, r.tree ~ ':varattno 0 ' AS is_whole,
    greatest(1, (length(r.tree) - length(replace(r.tree, '{RANGETBLENTRY', ''))) / 14) AS mentions,
    r.tree ~ '\{AGGREF |\{WINDOWFUNC |:hasRecursive true|:subLinkType 6|:funcid \d{5,}|\{TABLEFUNC ' AS gathers
  FROM (SELECT oid, ev_class, ev_action::text AS tree FROM pg_catalog.pg_rewrite WHERE rulename = '_RETURN') r
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
  WHERE r.ev_class >= 16384
), reaching (place, oid, weight, gathers) AS (
  SELECT c.place, v.oid, v.mentions::int8, v.gathers
  FROM counted c JOIN views v ON v.refobjid = c.oid AND (v.refobjsubid = c.attnum OR v.is_whole)
  UNION SELECT p.place, v.oid, least(p.weight * v.mentions, 100000), p.gathers OR v.gathers
  FROM reaching p JOIN views v ON v.refobjid = p.oid
)
SELECT pg_catalog.json_build_object(
  'counted', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(place, oid::int8, attnum, attname)) FROM counted),
  'reaching', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(place, oid::int8, weight, gathers))
    FROM (SELECT place, oid, max(weight) AS weight, bool_or(gathers) AS gathers FROM reaching GROUP BY 1, 2) x),
  'relations', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(oid::int8, nspname, relname, relnatts)) FROM (
    SELECT c.oid, n.nspname, c.relname, c.relnatts
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND n.nspname !~ '^pg_(toast|temp)'
    ORDER BY c.oid LIMIT $4::int) x),
  'statistics', (SELECT pg_catalog.json_agg(oid::int8) FROM pg_catalog.pg_class
    WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY ($5::text[])))::text"""


class CatalogUnread(Exception):
    """The target's catalog could not be read. `problem` may be shown to the agent."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Relation:
    """Of the target's own: its name as policy writes it, and its highest attribute number."""

    name: str
    bare_name: str
    attributes: int


@dataclass(frozen=True, slots=True)
class Reach:
    """How a view shows counted values: those of so many rows in one of its own, or, if it `gathers`, of any number."""

    weight: int
    gathers: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """Where the values of some columns show: by table their numbers and names, and through which views."""

    attributes: dict[int, frozenset[int]] = field(default_factory=dict)
    names: dict[int, frozenset[str]] = field(default_factory=dict)
    views: dict[int, Reach] = field(default_factory=dict)

    @property
    def widest(self) -> int:
        """How many of the columns one table has, at most."""
        return max(map(len, self.attributes.values()), default=1)


class Catalog:
    """What was found. `statistics`: PostgreSQL's own relations that hold values of other tables."""

    def __init__(self, columns: tuple[str, ...], found: dict[str, Any]) -> None:
        self._columns = columns
        self._counted: list[tuple[int, int, int, str]] = found["counted"] or []
        self._reaching: list[tuple[int, int, int, bool]] = found["reaching"] or []
        self.statistics = frozenset(found["statistics"] or ())
        self.relations = {
            oid: Relation(relation_name(schema, name), relation_name("", name), attributes)
            for oid, schema, name, attributes in found["relations"] or ()
        }
        self._by_name: dict[str, set[int]] = {}
        for oid, relation in self.relations.items():
            self._by_name.setdefault(relation.name, set()).add(oid)
            self._by_name.setdefault(relation.bare_name, set()).add(oid)

    @property
    def columns(self) -> frozenset[str]:
        """Those that were looked for."""
        return frozenset(self._columns)

    def named(self, name: str) -> Collection[int]:
        """The relations that a name may mean; without a schema, those of any. None: it isn't known."""
        return self._by_name.get(name, ())

    def counted(self, columns: Iterable[str]) -> Counted:
        """Where the values of these columns show."""
        wanted = frozenset(columns)
        places = {place for place, name in enumerate(self._columns, 1) if name in wanted}
        attributes: dict[int, set[int]] = {}
        names: dict[int, set[str]] = {}
        for place, oid, attribute, name in self._counted:
            if place in places:
                attributes.setdefault(oid, set()).add(attribute)
                names.setdefault(oid, set()).add(name)
        views: dict[int, Reach] = {}
        for place, oid, weight, gathers in self._reaching:
            if place in places and oid not in attributes:
                before = views.get(oid, Reach(0, gathers=False))
                views[oid] = Reach(before.weight + weight, before.gathers or gathers)
        return Counted(
            {oid: frozenset(numbers) for oid, numbers in attributes.items()},
            {oid: frozenset(found) for oid, found in names.items()},
            views,
        )


async def look(grant: SessionGrant, columns: Iterable[str]) -> Catalog:
    """Ask the target over a connection of its own, so that nothing the agent sets is in the way.

    Raises `CatalogUnread`.
    """
    ordered = tuple(sorted(columns))
    parts = [split_column(name) or ("", "", "") for name in ordered]
    handshake: HandshakeProtocol | None = None
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            parameters = {"application_name": "narrowgate catalog", "client_encoding": "UTF8"}
            upstream = await connect(grant.target, grant.credential, parameters)
            handshake = upstream.handshake
            await ask(handshake, frontend.build_query(_BEGIN))
            lists = [_array(part[at] for part in parts) for at in range(3)]
            values = (*lists, str(MAX_RELATIONS).encode(), _array(_STATISTICS))
            rows = await ask(handshake, frontend.build_unnamed(_LOOK, (), [(value, False) for value in values]))
            return Catalog(ordered, msgspec.json.decode(rows[0][0] or b"{}"))
    except Refused as error:
        raise CatalogUnread(f"the target refused to show its catalog: {error}") from error
    except (TargetError, TargetBrokeProtocol, WireError, PeerGone, OSError, TimeoutError) as error:
        raise CatalogUnread("the target's catalog can't be read now") from error
    except (LookupError, TypeError, ValueError) as error:
        raise CatalogUnread("the target's catalog could not be understood") from error
    finally:
        if handshake is not None:
            handshake.transport.abort()


def _array(texts: Iterable[str]) -> bytes:
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return ("{" + ",".join(quoted) + "}").encode()
