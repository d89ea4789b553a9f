"""What a budget answers to whoever takes from it, and how long it takes at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from policies.engine import LimitOf

#: Agents wait for the answer of the control plane, at most so long.
ASK_SECONDS: Final = 5.0
#: After a no, the control plane isn't asked again for so long: whoever is refused comes back at once.
RECHECK_SECONDS: Final = 1.0

WHOM: Final = {
    LimitOf.AGENT: "the agent",
    LimitOf.TARGET: "the target",
    LimitOf.AGENT_ON_TARGET: "the agent on the target",
    LimitOf.RULE: "all together",
}


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A limit allows no more now. Both texts may be shown to the agent."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The control plane was asked what is left. `then` calls back, never at once, when asking again makes sense."""

    then: Callable[[Callable[[], None]], None]


def unknown(rule: str, why: str) -> Exhausted:
    """It can't be told what is left."""
    return Exhausted(f"what is left of the limit of rule {rule!r} isn't known: {why}", "Try again in a few seconds.")
