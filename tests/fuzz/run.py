"""Runs a fuzz target by atheris."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable


def fuzz(one_input: Callable[[bytes], None]) -> None:
    """Call the target until it raises, with the options of libFuzzer on the command line."""
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit(
            "atheris is not installed. The normal suite runs this target with hypothesis: see tests/fuzz/README.md"
        )
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
