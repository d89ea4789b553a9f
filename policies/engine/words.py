"""What decisions say: in words that the agent, a language model too, can act on. All of them are short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from policies.engine.model import Effect, Rule
from policies.engine.operation import ALL_COLUMNS, NOTHING, UNRESOLVED, Access, is_sql
from policies.engine.patterns import allowed_name, is_qualified
from policies.engine.windows import say_when

#: Rules, and names in one list, that are told at most.
MAX_TOLD_RULES: Final = 5
MAX_TOLD_NAMES: Final = 8
MAX_NAME_CHARACTERS: Final = 120
MAX_HELP_CHARACTERS: Final = 900

RETRYING: Final = "This rule has to change before the operation can pass; retrying will not help."


def say_access(access: Access) -> str:
    """Such as "select on public.customers (columns email, ssn)"."""
    if access.object == NOTHING:
        return access.kind
    name = "something that can't be told from the text" if access.object == UNRESOLVED else printable(access.object)
    if not access.columns or access.object == UNRESOLVED:
        return f"{access.kind} on {name}"
    columns = "all columns" if ALL_COLUMNS in access.columns else f"columns {names(access.columns)}"
    return f"{access.kind} on {name} ({columns})"


def say_missing(rule: Rule, access: Access, *, columns: bool, hazards: Iterable[str]) -> str:
    """Why a rule that takes in the object doesn't cover the access; empty for what its condition decides."""
    if columns:
        return f"rule {rule.name!r} covers columns {names(rule.columns)} only"
    if unsafe := names(sorted(hazards)):
        return f"rule {rule.name!r} doesn't cover the hazard {unsafe}"
    if rule.when is not None and not rule.condition:
        return f"rule {rule.name!r} covers {access.kind} there at other times: {say_when(rule.when)}"
    return f"rule {rule.name!r} covers it only when: {printable(rule.condition)}"


def say_allowed(rules: Iterable[Rule]) -> str:
    """A short list of what rules let pass, such as "Allowed here: select on public.orders; call."."""
    said: dict[str, None] = {}
    more = False
    for rule in rules:
        line = _say_rule(rule)
        if line in said:
            continue
        if len(said) == MAX_TOLD_RULES:
            more = True
            break
        said[line] = None
    return f"Allowed here: {'; '.join(said)}{'; and more' if more else ''}." if said else ""


def say_unqualified(access: Access) -> str:
    """That a name without a schema is read for the worse."""
    name = access.object
    if not is_sql(access.kind) or name in (NOTHING, UNRESOLVED) or is_qualified(name):
        return ""
    return (
        f"Write {printable(name)} with its schema, such as {printable(allowed_name(name))}, if that is what is meant."
    )


def join(*sentences: str) -> str:
    """Those that say something, cut to what fits an error message."""
    return " ".join(sentence for sentence in sentences if sentence)[:MAX_HELP_CHARACTERS]


def names(all_names: Iterable[str]) -> str:
    """Some of them, in a list."""
    listed = list(all_names)
    more = len(listed) - MAX_TOLD_NAMES
    told = ", ".join(printable(name) for name in listed[:MAX_TOLD_NAMES])
    return f"{told} and {more} more" if more > 0 else told


def noun(party: str) -> str:
    """Such as "agent reporter", or "person:ada@acme.example"."""
    return party if ":" in party else f"agent {party}"


def printable(text: str) -> str:
    """A name of the agent's or the target's making, fit for a line."""
    cut = text if len(text) <= MAX_NAME_CHARACTERS else f"{text[:MAX_NAME_CHARACTERS]}…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def _say_rule(rule: Rule) -> str:
    what = names(rule.operations) or ("anything" if "*" in rule.hazards else "anything without a grave hazard")
    if rule.objects:
        what += f" on {names(rule.objects)}"
    if rule.columns:
        what += f" (columns {names(rule.columns)})"
    if rule.when is not None:
        what += f" ({say_when(rule.when)})"
    if rule.effect is Effect.REQUIRE_APPROVAL:
        what += " (with an approval)"
    return what
