"""The library for CEL, without the program that comes with it.

`import cel` also imports a command line with its prompt and pages: half a second, and 30 MB in each worker. All that
conditions need is the package's extension module, which is loaded by itself here, under its own name.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final, Protocol, cast

_NAME: Final = "cel.cel"


class Program(Protocol):
    """A compiled expression."""

    def execute(self, context: Context) -> Any:
        """Its value. Raises what the library raises: almost anything."""

    def references(self) -> dict[str, list[str]]:
        """The names that it mentions: "variables" and "functions"."""


class Context(Protocol):
    """The variables that an expression sees."""

    def add_variable(self, name: str, value: Any) -> None:
        """Set it, or set it anew."""


class Library(Protocol):
    """What conditions use of the extension module."""

    def compile(self, expression: str) -> Program:
        """Raises ValueError for what is no expression."""

    def Context(self) -> Context:  # noqa: N802 - the library's name
        """Without variables."""


def load() -> Library:
    """The extension module. Raises ImportError."""
    if _NAME not in sys.modules:
        package = find_spec("cel")
        folders = None if package is None else package.submodule_search_locations
        spec = PathFinder.find_spec(_NAME, folders)
        if spec is None or spec.loader is None:
            raise ImportError("common-expression-language is not installed", name=_NAME)
        module = module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return cast("Library", sys.modules[_NAME])
