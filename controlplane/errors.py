"""What goes wrong in a way that people can mend, whatever they use to do it.

    Refusal      an action can't be done as asked: field, problem, fix

Admin, REST (`problems`) and apply each say it in their way.
"""

from __future__ import annotations


class Refusal(Exception):
    """An action can't be done as asked. `field` names what to change ("" for the whole), `fix` says how."""

    def __init__(self, *, problem: str, fix: str, field: str = "") -> None:
        super().__init__(f"{f'{field}: ' if field else ''}{problem}. {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix
