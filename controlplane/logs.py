"""Structured logs: one event a line, JSON in production, with the request or task that it belongs to.

Whoever logs passes facts by keyword. A value under a name that sounds like a secret is replaced, as a last net: the
rule is that none is passed.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

import structlog

#: Parts of a key whose value is never written.
SENSITIVE: Final = ("password", "secret", "token", "credential", "authorization", "cookie", "private_key")
HIDDEN: Final = "(hidden)"


def hide_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the values of sensitive keys."""
    for key in event:
        if any(word in key.lower() for word in SENSITIVE):
            event[key] = HIDDEN
    return event


def logging_settings(*, level: str, as_json: bool) -> dict[str, Any]:
    """Set structlog up and return Django's LOGGING for it: everything goes to stderr, third parties' logs too."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        cache_logger_on_first_use=True,
    )
    # Tracebacks without local variables: among those are passwords and tokens.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    rendering: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "event": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder(), hide_secrets],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            },
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "event"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Each of these says per request what django_structlog says better.
            "daphne": {"level": "WARNING"},
            "django.channels.server": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
        },
    }
