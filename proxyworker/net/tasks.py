"""Background tasks. The one place that makes them: asyncio keeps no strong reference to a task by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger(__name__)
_tasks: set[asyncio.Task[Any]] = set()


def spawn(name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run the coroutine as a task of that name; keep it alive until it is done; log what it raises, once."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _tasks.add(task)
    task.add_done_callback(_finish)
    return task


def _finish(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("task_failed", task=task.get_name(), error=type(error).__name__, exc_info=error)
