"""What a statement's text means: by PostgreSQL's own grammar (libpg_query), never by searching words.

    tree        text → the parser's tree, within bounds that a hostile text can't break
    skeleton    what texts that differ in literals alone have in common, before they are parsed
    facts       what comes out: the operation for policy, and what the session needs to know
    scope       which relation a name in a query refers to;  accesses: what gathers while a text is read
    queries     SELECT, INSERT, UPDATE, DELETE, MERGE and the expressions in them
    kinds       each other statement of the grammar: its kind, its hazards, where its objects stand
    utilities   those statements, read by that table
    functions   which functions are pure, harmless, or a hazard;  catalog: how objects are named
    reader      puts it together: `understand`

Pure: no catalog is asked. A name is what the text says it is; a view is itself, not what is beneath it.
"""

from proxyworker.postgres.understand.facts import CURSOR_FACTS, NAMELESS_UNKNOWN_FACTS, UNKNOWN_FACTS, Facts, NameChange
from proxyworker.postgres.understand.reader import understand, unread

__all__ = ["CURSOR_FACTS", "NAMELESS_UNKNOWN_FACTS", "UNKNOWN_FACTS", "Facts", "NameChange", "understand", "unread"]
