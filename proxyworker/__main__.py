"""`python -m proxyworker`: one worker, configured by its environment. Exit status 2: it can't start as it is set up."""

from __future__ import annotations

import os
import resource
import sys
from typing import Final

import structlog
import uvloop

from proxyworker.config import LogLevel, Mode, read_config
from proxyworker.errors import ConfigError, WorkerError
from proxyworker.logs import configure_logs
from proxyworker.worker import Worker

#: How long a thread may keep the data path waiting for the interpreter; Python's own 5 ms is an eternity here.
SWITCH_SECONDS: Final = 0.0002
CANT_START: Final = 2


def main() -> int:
    """Run until told to stop."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold every secret in memory
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        config = read_config(os.environ)
    except ConfigError as error:
        configure_logs(level=LogLevel.INFO, as_json=False)
        structlog.get_logger().error("bad_configuration", variable=error.variable, problem=error.problem, fix=error.fix)
        return CANT_START
    configure_logs(level=config.log_level, as_json=config.mode is Mode.PRODUCTION)

    async def run() -> int:
        return await Worker(config).run()

    try:
        return uvloop.run(run())
    except (WorkerError, OSError) as error:
        structlog.get_logger().error("worker_failed", error=type(error).__name__, problem=str(error))
        return CANT_START


if __name__ == "__main__":
    sys.exit(main())
