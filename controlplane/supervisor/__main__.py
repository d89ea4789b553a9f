"""`python -m controlplane.supervisor`: all of Narrowgate on this machine, in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from controlplane.env import ConfigurationError
from controlplane.supervisor.banner import banner
from controlplane.supervisor.embedded import ServerError
from controlplane.supervisor.layout import Layout, read_layout
from controlplane.supervisor.processes import HomeBusy, PortTaken
from controlplane.supervisor.supervisor import supervise


def main() -> int:
    """The exit status: 0 after a stop that was asked for, 1 when something could not start, 2 for bad configuration."""
    try:
        layout = read_layout(os.environ)
    except ConfigurationError as error:
        print(f"narrowgate: {error}", file=sys.stderr)
        return 2
    os.umask(0o077)
    failures = _run(layout)
    for failure in failures:
        print(f"narrowgate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _run(layout: Layout) -> list[BaseException]:
    """Run until stopped; what could not start."""
    began = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    failures: list[BaseException] = []
    try:
        asyncio.run(supervise(layout, report=report, ready=lambda demo: print(banner(demo), flush=True)))
    except* (ServerError, HomeBusy, PortTaken) as group:
        failures.extend(_leaves(group))
    return failures


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions themselves, out of all nesting."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
