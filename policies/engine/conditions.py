"""Conditions of rules: CEL over agent, operation, target and time.

The library bounds neither depth nor work: deep nesting overflows the C stack and takes the process with it, a regular
expression is compiled at each use, macros nest, and the text and the lists are the agent's to choose. So a condition is
taken apart before the library sees it, only the names below may stand in it, and what it is asked about is cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from policies.engine import cel
from policies.engine.model import MAX_CONDITION_CHARACTERS, PolicyError
from policies.engine.operation import Operation, Target
from policies.engine.principal import Principal

#: What a condition can speak of. `MAPPINGS` hold what tenants and providers name as they like.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "agent": ("name", "groups", "claims", "sponsor", "on_behalf_of", "actors"),
    "operation": ("kinds", "objects", "hazards", "columns", "text", "verb"),
    "target": ("name", "environment", "labels", "protocol"),
    "time": ("now", "hour", "minute", "weekday", "day", "month", "date"),
}
MAPPINGS: Final = frozenset({"claims", "labels"})
#: No `matches`: see above. No `filter` and `map`: they copy their list for each element.
FUNCTIONS: Final = frozenset(
    {"size", "contains", "startsWith", "endsWith", "timestamp", "duration", "int", "double", "string"}
)
MACROS: Final = frozenset({"all", "exists", "exists_one"})

#: A thread of 512 KB runs a hundred levels and a thousand operators.
MAX_DEPTH: Final = 12
MAX_TOKENS: Final = 300
#: Each goes through a list once, at about a microsecond an element.
MAX_MACROS: Final = 4
#: An operation that touches more can't be asked about: the condition fails, which denies.
MAX_LIST: Final = 200
MAX_TEXT_CHARACTERS: Final = 64 * 1024
#: Conditions whose compiled form is kept.
COMPILED_CONDITIONS: Final = 2_048

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>\d[\d.eExXa-fA-F]*u?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_OPERATORS: Final = re.compile(r"[^A-Za-z0-9]+|@in|@not_strictly_false")
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class ConditionFailed(Exception):
    """A condition gave no answer: `problem` says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition, and which of its answer's grounds change while the operation's facts stay the same."""

    program: cel.Program
    reads_text: bool
    reads_time: bool
    reads_operation: bool
    is_constant: bool

    @property
    def is_lasting(self) -> bool:
        """Whether its answer holds for a whole session."""
        return not (self.reads_operation or self.reads_time)


@lru_cache(maxsize=COMPILED_CONDITIONS)
def compile_condition(text: str) -> Condition:
    """Raises `PolicyError`, with an empty field, for what is no condition."""
    if len(text) > MAX_CONDITION_CHARACTERS:
        raise _wrong(f"has over {MAX_CONDITION_CHARACTERS} characters", "Use several rules")
    tokens = _tokens(text)
    read = _Reader(tokens).read()
    try:
        program = cel.load().compile(text)
        names = program.references()
    except BaseException as error:
        _pass_on(error)
        raise _wrong(f"is no CEL: {_first_line(error)}", "See docs/policy.md for conditions") from error
    _check_names(names, read)
    condition = Condition(
        program=program,
        reads_text=("operation", "text") in read.paths,
        reads_time="time" in read.roots,
        reads_operation="operation" in read.roots,
        is_constant=not read.roots,
    )
    _try_out(condition)
    return condition


def check_condition(text: str, *, field: str) -> None:
    """Raises `PolicyError` for that field."""
    try:
        compile_condition(text)
    except PolicyError as error:
        raise PolicyError(field, error.problem, error.fix) from error


def condition_holds(
    text: str,
    *,
    principal: Principal,
    target: Target,
    operation: Operation,
    now: float,
    operation_text: str = "",
    zone: ZoneInfo | None = None,
) -> bool:
    """Whether a condition, such as an approval flow's, is true. Raises `ConditionFailed` when there is no answer."""
    try:
        condition = compile_condition(text)
    except PolicyError as error:
        raise ConditionFailed(error.problem) from error
    scene = Scene(principal, target)
    return scene.ask(operation, now=now, text=operation_text)(condition, zone)


#: Whether a condition holds, `time` being told in the zone (None: UTC). Raises `ConditionFailed`.
Ask = Callable[[Condition, ZoneInfo | None], bool]


class Scene:
    """What conditions see, of one principal on one target: told to the library once, and the operation as it comes."""

    __slots__ = ("_context", "_principal", "_target")

    def __init__(self, principal: Principal, target: Target) -> None:
        self._principal = principal
        self._target = target
        self._context: cel.Context | None = None

    def ask(self, operation: Operation, *, now: float, text: str) -> Ask:
        """For the conditions that this operation meets."""
        told_operation = False
        told_text = False

        def holds(condition: Condition, zone: ZoneInfo | None) -> bool:
            nonlocal told_operation, told_text
            context = self._static()
            try:
                if condition.reads_operation and not (told_text or (told_operation and not condition.reads_text)):
                    told_operation, told_text = True, condition.reads_text
                    context.add_variable("operation", _operation(operation, text if condition.reads_text else ""))
                if condition.reads_time:
                    context.add_variable("time", _time(now, zone))
                answer = condition.program.execute(context)
            except ConditionFailed:
                told_operation = told_text = False
                raise
            except BaseException as error:
                _pass_on(error)
                raise ConditionFailed(_first_line(error)) from error
            if answer is True or answer is False:
                return answer
            raise ConditionFailed(f"it gives no true or false, but {type(answer).__name__}")

        return holds

    def _static(self) -> cel.Context:
        if self._context is None:
            context = cel.load().Context()
            principal, target = self._principal, self._target
            context.add_variable(
                "agent",
                {
                    "name": principal.name, "groups": list(principal.groups), "claims": dict(principal.labels),
                    "sponsor": principal.sponsor, "on_behalf_of": principal.on_behalf_of,
                    "actors": list(principal.actors),
                },
            )  # fmt: skip
            context.add_variable(
                "target",
                {
                    "name": target.name, "environment": target.environment, "labels": dict(target.labels),
                    "protocol": target.protocol,
                },
            )  # fmt: skip
            self._context = context
        return self._context


def _operation(operation: Operation, text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ConditionFailed(f"the operation's text has over {MAX_TEXT_CHARACTERS} characters")
    lists = {
        "kinds": dict.fromkeys(access.kind for access in operation.accesses),
        "objects": dict.fromkeys(access.object for access in operation.accesses if access.object),
        "columns": dict.fromkeys(column for access in operation.accesses for column in access.columns),
        "hazards": dict.fromkeys(operation.hazards),
    }
    for name, values in lists.items():
        if len(values) > MAX_LIST:
            raise ConditionFailed(f"the operation has over {MAX_LIST} {name}")
    return {**{name: list(values) for name, values in lists.items()}, "text": text, "verb": operation.verb}


def _time(now: float, zone: ZoneInfo | None) -> dict[str, Any]:
    moment = datetime.fromtimestamp(now, zone or UTC)
    return {
        "now": moment.astimezone(UTC), "hour": moment.hour, "minute": moment.minute,
        "weekday": _WEEKDAYS[moment.weekday()], "day": moment.day, "month": moment.month,
        "date": moment.date().isoformat(),
    }  # fmt: skip


# ---------------------------------------------------------------- before the library


@dataclass(frozen=True, slots=True)
class _Read:
    roots: frozenset[str]
    paths: frozenset[tuple[str, str]]
    bound: frozenset[str]


class _Reader:
    """Goes through the tokens once: depth, macros, and what each name is a field of."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._roots: set[str] = set()
        self._paths: set[tuple[str, str]] = set()
        self._bound: set[str] = set()
        #: Of each open bracket, whether it is a macro's.
        self._open: list[bool] = []
        self._macros = 0

    def read(self) -> _Read:
        """Raises `PolicyError`."""
        for index, word in enumerate(self._tokens):
            if word in "([{":
                self._opens(index)
            elif word in ")]}":
                if self._open:
                    self._open.pop()
            elif word in FIELDS and self._at(index - 1) != ".":
                self._root(index, word)
        return _Read(frozenset(self._roots), frozenset(self._paths), frozenset(self._bound))

    def _at(self, index: int) -> str:
        return self._tokens[index] if 0 <= index < len(self._tokens) else ""

    def _opens(self, index: int) -> None:
        is_macro = self._tokens[index] == "(" and self._at(index - 1) in MACROS and self._at(index - 2) == "."
        if is_macro:
            self._macros += 1
            if any(self._open):
                raise _wrong("has a macro within a macro", "Use several rules")
            if self._macros > MAX_MACROS:
                raise _wrong(f"has over {MAX_MACROS} of {', '.join(sorted(MACROS))}", "Use several rules")
            variable = self._at(index + 1)
            if variable in FIELDS:
                raise _wrong(f"uses {variable} for an element", "Call the element something else")
            self._bound.add(variable)
        if self._tokens[index] == "{" and self._at(index - 1).isidentifier():
            raise _wrong(f"makes a message: {self._at(index - 1)[:40]}", "Conditions know no messages")
        self._open.append(is_macro)
        if len(self._open) > MAX_DEPTH:
            raise _wrong(f"nests over {MAX_DEPTH} deep", "Use several rules")

    def _root(self, index: int, root: str) -> None:
        name = self._at(index + 2)
        if self._at(index + 1) != "." or name not in FIELDS[root]:
            raise _wrong(f"uses {root} without one of its fields", f"{root} has {', '.join(FIELDS[root])}")
        if name not in MAPPINGS and self._at(index + 3) == "." and self._at(index + 5) != "(":
            raise _wrong(f"{root}.{name} has no fields", "Only claims and labels have")
        self._roots.add(root)
        self._paths.add((root, name))


def _tokens(text: str) -> list[str]:
    """What is in a string here must be in a string for the library: no raw or triple-quoted ones, and no comments."""
    tokens: list[str] = []
    at = 0
    before = ""
    while at < len(text):
        found = _TOKEN.match(text, at)
        kind = "" if found is None else found.lastgroup or ""
        is_glued = kind == "string" and before in ("name", "string", "number")
        if found is None or is_glued or text.startswith("//", at) or not _is_plain(found[0]):
            raise _wrong(f"has something odd at character {at + 1}: {text[at : at + 10]!r}", "See docs/policy.md")
        at = found.end()
        before = kind
        if kind == "string":
            tokens.append('""')  # never mistaken for a name or a bracket
        elif kind != "space":
            tokens.append(found[0])
    if not tokens:
        raise _wrong("is empty", "Leave it out")
    if len(tokens) > MAX_TOKENS:
        raise _wrong(f"has over {MAX_TOKENS} words and signs", "Use several rules")
    return tokens


def _is_plain(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


def _check_names(names: dict[str, list[str]], read: _Read) -> None:
    """The library must see the names that were seen here: else one of the two misread the text."""
    variables = set(names["variables"]) - read.bound
    if variables != read.roots:
        unknown = sorted(variables - set(FIELDS))
        raise _wrong(f"uses {', '.join(unknown)[:100] or 'its names oddly'}", f"Known are {', '.join(FIELDS)}")
    for name in names["functions"]:
        if name not in FUNCTIONS and not _OPERATORS.fullmatch(name):
            raise _wrong(f"calls {name[:40]}()", f"Known are {', '.join(sorted(FUNCTIONS | MACROS))}, has")


def _try_out(condition: Condition) -> None:
    """Find what would fail for every operation: a value that is no bool, operands of different types."""
    scene = Scene(Principal(id="", name=""), Target(name=""))
    try:
        scene.ask(Operation(accesses=()), now=0.0, text="")(condition, None)
    except ConditionFailed as failed:
        if failed.__cause__ is None or isinstance(failed.__cause__, TypeError):
            raise _wrong(f"can't work: {failed.problem}", "It must be true or false of each operation") from failed


def _pass_on(error: BaseException) -> None:
    """The library's errors have no common base, and a panic of it is no Exception: only what isn't its own goes on."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error


def _wrong(problem: str, fix: str) -> PolicyError:
    return PolicyError("", problem, fix)


def _first_line(error: BaseException) -> str:
    line = str(error).partition("\n")[0][:200]
    return f"there is no {line}" if isinstance(error, KeyError) else line or type(error).__name__
