"""Functions that are called by their number ("Function Call" of the protocol)."""

from __future__ import annotations

from typing import Final

from policies.engine import Access, Kind, Operation
from policies.engine.operation import ALL_COLUMNS, UNRESOLVED
from proxyworker.postgres.understand.catalog import function_name
from proxyworker.postgres.understand.facts import Facts
from proxyworker.postgres.understand.functions import ANY_HAZARDS, PG_CATALOG, hazards_of

#: What clients call so: the large objects of libpq. The numbers are PostgreSQL's own, in every version; a test holds
#: them against a real server.
KNOWN_FUNCTIONS: Final = {
    715: "lo_create", 952: "lo_open", 953: "lo_close", 954: "loread", 955: "lowrite", 956: "lo_lseek",
    957: "lo_creat", 958: "lo_tell", 964: "lo_unlink", 1004: "lo_truncate", 3170: "lo_lseek64", 3171: "lo_tell64",
    3172: "lo_truncate64",
}  # fmt: skip

_ANY: Final = Facts(
    operation=Operation(
        accesses=(Access(Kind.CALL, UNRESOLVED), Access(Kind.SELECT, UNRESOLVED, (ALL_COLUMNS,))), hazards=ANY_HAZARDS
    ),
    statements=1,
    moves_names=True,
)


def called(oid: int) -> Facts:
    """The facts of a call. Of a function that isn't known, it may be any, with each hazard that one may have."""
    name = KNOWN_FUNCTIONS.get(oid)
    if name is None:
        return _ANY
    access = Access(Kind.CALL, function_name(PG_CATALOG, name))
    return Facts(operation=Operation(accesses=(access,), hazards=tuple(hazards_of(name))), statements=1)
