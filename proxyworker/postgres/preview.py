"""What a statement that waits for approval would touch: the planner's estimate, or a count of the rows it would hit.

Over a connection of its own with the session's credential, in a read-only transaction with a timeout. Nothing is run
but EXPLAIN without ANALYZE, and a SELECT that counts; neither where it would call a function that could have an effect.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from policies.engine import Kind
from proxyworker.gate.approve import Preview
from proxyworker.net.handshake import HandshakeProtocol, PeerGone
from proxyworker.postgres.asking import Refused, ask
from proxyworker.postgres.counting import Counted, NotCountable, count_of
from proxyworker.postgres.errors import TargetError
from proxyworker.postgres.upstream import connect
from proxyworker.wire.postgres import frontend
from proxyworker.wire.postgres.errors import WireError

if TYPE_CHECKING:
    from proxyworker.contract import SessionGrant
    from proxyworker.postgres.held import HeldOperation

#: What the target may spend on one statement of a preview.
STATEMENT_MILLISECONDS: Final = 5_000
#: All of it, connecting included: the approver waits.
PREVIEW_SECONDS: Final = 20.0
#: A plan is for people.
MAX_PLAN_BYTES: Final = 64 * 1024

_BEGIN: Final = (
    f"BEGIN READ ONLY; SET LOCAL statement_timeout = {STATEMENT_MILLISECONDS};"
    f" SET LOCAL lock_timeout = {STATEMENT_MILLISECONDS}"
).encode()
#: Kinds of statements that the planner has a plan for.
_PLANNED: Final = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.LOCK})
#: A view, or a table with row security, may call functions that the text doesn't show.
_PLAIN_TABLES: Final = b"""
    SELECT coalesce(bool_and(relkind IN ('r', 'p') AND NOT relrowsecurity), true) FROM pg_catalog.pg_class
    WHERE oid IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest($1::text[]) AS name)"""
_TEXT_OID: Final = 25


async def preview_of(grant: SessionGrant, held: HeldOperation, *, exact: bool) -> Preview:
    """Find out what a held statement would touch. Never raises: what can't be told has its problem."""
    problem = _problem(held)
    if problem:
        return Preview(problem=problem)
    handshake: HandshakeProtocol | None = None
    try:
        counted = count_of(held.statement.text) if exact else None
        async with asyncio.timeout(PREVIEW_SECONDS):
            parameters = {"application_name": "narrowgate preview", "client_encoding": "UTF8"}
            upstream = await connect(grant.target, grant.credential, parameters)
            handshake = upstream.handshake
            await ask(handshake, frontend.build_query(_BEGIN))
            return await (_estimate(handshake, held) if counted is None else _count(handshake, held, counted))
    except NotCountable as error:
        return Preview(problem=error.problem)
    except Refused as error:
        return Preview(problem=f"the target refused: {error}")
    except TimeoutError:
        return Preview(problem=f"it took longer than {PREVIEW_SECONDS:.0f} seconds")
    except (TargetError, WireError, PeerGone, OSError):
        return Preview(problem="the target can't be asked now")
    finally:
        if handshake is not None:
            handshake.transport.abort()  # the transaction ends with it; it has changed nothing


def _problem(held: HeldOperation) -> str:
    """Why nothing may be asked about the statement."""
    facts = held.statement.facts
    kinds = {access.kind for access in held.understood.accesses}
    if facts.statements and not facts.is_pure:
        return "it calls functions, and asking the planner might run them"
    if facts.statements != 1 or not kinds <= _PLANNED:
        return "the planner has no estimate for such a statement"
    if held.has_moved:
        return "the session has changed what names lead to, so another one can't see what it would touch"
    return ""


async def _estimate(handshake: HandshakeProtocol, held: HeldOperation) -> Preview:
    text = b"EXPLAIN (FORMAT JSON) " + held.statement.text
    rows = await ask(handshake, frontend.build_unnamed(text, _types(held), held.parameters))
    plan = b"\n".join(row[0] or b"" for row in rows)
    shown = plan[:MAX_PLAN_BYTES].decode("utf-8", "replace")
    try:
        return Preview(rows=_rows_of(msgspec.json.decode(plan)[0]["Plan"]), plan=shown)
    except (msgspec.DecodeError, LookupError, TypeError, ValueError):
        return Preview(plan=shown, problem="the target's plan could not be read")


async def _count(handshake: HandshakeProtocol, held: HeldOperation, counted: Counted) -> Preview:
    names = (
        "{" + ",".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in counted.relations) + "}"
    )
    plain = await ask(handshake, frontend.build_unnamed(_PLAIN_TABLES, (), ((names.encode(), False),)))
    if plain != [[b"t"]]:
        return Preview(problem="it reads views, or tables with row security, whose functions counting would run")
    types, values = list(_types(held)), list(held.parameters)
    types += [0] * (len(values) - len(types))
    for index in range(len(values)):
        if index + 1 not in counted.parameters:  # named by the statement, but not by its count
            types[index], values[index] = _TEXT_OID, (None, False)
    rows = await ask(handshake, frontend.build_unnamed(counted.text, types, values))
    return Preview(rows=int(rows[0][0] or b"0"))


def _types(held: HeldOperation) -> tuple[int, ...]:
    raw = held.statement.types
    return struct.unpack(f"!{len(raw) // 4}I", raw)


def _rows_of(plan: dict[str, Any]) -> int:
    """The rows of the plan's root; of a change, those of what it is fed with."""
    while plan["Node Type"] in ("ModifyTable", "LockRows") and plan.get("Plans"):
        plan = plan["Plans"][0]
    return int(plan["Plan Rows"])
