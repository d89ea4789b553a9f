"""`python -m proxyworker [--processes N]`: one worker, configured by its environment.

Exit status 2: it can't start as it is set up. With several processes this one only looks after them (`processes`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
from typing import Final

import msgspec
import structlog

from proxyworker.config import Config, LogLevel, Mode, read_config
from proxyworker.errors import ConfigError, WorkerError
from proxyworker.logs import configure_logs
from proxyworker.net.siblings import Siblings
from proxyworker.processes import CANT_START, Birth, Processes, die_with

#: How long a thread may keep the data path waiting for the interpreter; Python's own 5 ms is an eternity here.
SWITCH_SECONDS: Final = 0.0002


def main() -> int:
    """Run until told to stop."""
    options = _options()
    birth = None if options.born is None else msgspec.json.decode(options.born, type=Birth)
    environ = dict(os.environ)
    if options.processes is not None:
        environ["NARROWGATE_WORKER_PROCESSES"] = options.processes
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold every secret in memory
    try:
        config = read_config(environ, process=0 if birth is None else birth.number)
    except ConfigError as error:
        configure_logs(level=LogLevel.INFO, as_json=False)
        structlog.get_logger().error("bad_configuration", variable=error.variable, problem=error.problem, fix=error.fix)
        return CANT_START
    configure_logs(
        level=config.log_level,
        as_json=config.mode is Mode.PRODUCTION,
        process=None if birth is None else birth.number,
    )
    try:
        return _serve(config, birth) if birth is not None or config.processes == 1 else _look_after(config)
    except (WorkerError, OSError) as error:
        structlog.get_logger().error("worker_failed", error=type(error).__name__, problem=str(error))
        return CANT_START


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxyworker", description="One worker of Narrowgate.")
    told = "how many share its ports, for as many processors; overrides NARROWGATE_WORKER_PROCESSES (1)"
    parser.add_argument("--processes", metavar="N", help=told)
    parser.add_argument("--born", help=argparse.SUPPRESS)
    return parser.parse_args()


def _look_after(config: Config) -> int:
    async def run() -> int:
        return await Processes(config).run()

    return asyncio.run(run())


def _serve(config: Config, birth: Birth | None) -> int:
    # Not for the parent: it needs no more memory than looking after others takes.
    import uvloop

    from proxyworker.worker import Worker

    if birth is not None:
        die_with(birth.parent)
    sys.setswitchinterval(SWITCH_SECONDS)

    async def run() -> int:
        return await Worker(config, Siblings() if birth is None else birth.siblings()).run()

    return uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main())
