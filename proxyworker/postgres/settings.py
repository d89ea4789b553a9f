"""Settings that a startup message brings along: they are decided on as SET statements would be.

A client may send any setting by its name, or several in `options` as `-c name=value` or `--name=value` ("Command-line
options of the server"); the target would apply them before the first statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from policies.engine import Hazard, Kind, Operation
from proxyworker.postgres.understand.accesses import Accesses

#: One argument of `options`: a backslash keeps what follows it, a space ends it.
_ARGUMENT: Final = re.compile(r"(?:\\.|[^\\\s])+", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_LONG: Final = re.compile(r"--([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_SHORT: Final = re.compile(r"-c([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


def settings_operation(parameters: Mapping[str, str]) -> Operation | None:
    """What the settings are, for policy; None where none of them is dangerous."""
    accesses = _read(parameters)
    if not accesses.hazards:
        return None
    accesses.add(Kind.SET)
    return Operation(accesses=accesses.finish(), hazards=accesses.hazards)


def settings_that_count(parameters: Mapping[str, str]) -> str:
    """All of them, where an approval depends on some: on where names lead, on the application's own. Else nothing."""
    accesses = _read(parameters)
    return repr(sorted(parameters.items())) if accesses.hazards or accesses.moves_values else ""


def _read(parameters: Mapping[str, str]) -> Accesses:
    accesses = Accesses()
    for name, value in parameters.items():
        if name == "options":
            _read_options(accesses, value)
        else:
            accesses.set(name.lower(), value)
    return accesses


def _read_options(accesses: Accesses, options: str) -> None:
    arguments = [_ESCAPED.sub(r"\1", one) for one in _ARGUMENT.findall(options)]
    while arguments:
        argument = arguments.pop(0)
        if argument == "-c" and arguments:
            argument += arguments.pop(0)
        found = _SHORT.fullmatch(argument) or _LONG.fullmatch(argument)
        if found is None:
            # Another option of the server, or none: whatever it may set.
            accesses.hazard(Hazard.SYSTEM_SETTING, Hazard.SEARCH_PATH, Hazard.ROLE_CHANGE)
        else:
            accesses.set(found[1].replace("-", "_").lower(), found[2])
