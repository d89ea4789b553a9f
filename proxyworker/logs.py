"""One line per event on stderr: JSON in production, text elsewhere. No event has a field for a secret."""

from __future__ import annotations

import logging
import sys

import structlog

from proxyworker.config import LogLevel

#: These tell of each request, some with its URL, which for an upload is signed.
_QUIET = ("httpx", "httpcore", "websockets")


def _telling(name: str, value: int) -> structlog.typing.Processor:
    def tell(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault(name, value)
        return event

    return tell


def configure_logs(*, level: LogLevel, as_json: bool, process: int | None = None) -> None:
    """Send everything, the libraries' own logs too, to stderr in one form. `process`: told in each line, if any."""
    shared: list[structlog.typing.Processor] = [
        *([] if process is None else [_telling("process", process)]),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without local variables: among those are a target's password and agents' tokens.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    rendering: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level.value),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
