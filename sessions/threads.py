"""The database, from the coroutines of links: asked in threads of this process, which all links share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django_scopes import scope

from sessions.ingest import LinkedWorker

#: Records have their own: a question may wait for an identity provider. Both together leave connections of the
#: database's pool to web requests.
QUESTION_THREADS: Final = ThreadPoolExecutor(max_workers=6, thread_name_prefix="link-question")
RECORD_THREADS: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="link-record")

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, which uses the database, in a thread for questions."""
    return await _call(QUESTION_THREADS, function, *args, **kwargs)


async def in_record_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, which keeps records, in a thread for those."""
    return await _call(RECORD_THREADS, function, *args, **kwargs)


def in_scope(worker: LinkedWorker, function: Callable[P, T]) -> Callable[P, T]:
    """The function, to be called in the worker's scope."""

    def scoped(*args: P.args, **kwargs: P.kwargs) -> T:
        with scope(tenant=worker.tenant_id):
            return function(*args, **kwargs)

    return scoped


async def _call(executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    def call() -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return await sync_to_async(call, thread_sensitive=False, executor=executor)()
