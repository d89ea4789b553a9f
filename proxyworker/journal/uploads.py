"""Sealed content segments on their way to storage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

import httpx
import structlog

from proxyworker.errors import LinkError
from proxyworker.journal.cursor import SealedContent
from proxyworker.link import Link

#: Uploads at once: enough for many short sessions, little beside the data path.
WORKERS: Final = 4
#: A segment of 16 MiB over a slow line.
UPLOAD_SECONDS: Final = 120.0
FIRST_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


class Uploader:
    """Asks for a place for each segment, puts it there, and tells; tries again with back-off for as long as it takes.

    `origin` is what a relative upload URL is relative to. `on_stored` is awaited for each segment that storage has.
    """

    def __init__(
        self,
        *,
        link: Link,
        client: httpx.AsyncClient,
        origin: str,
        path: Callable[[SealedContent], Path],
        on_stored: Callable[[SealedContent], Awaitable[None]],
    ) -> None:
        self._link = link
        self._client = client
        self._origin = httpx.URL(origin)
        self._path = path
        self._on_stored = on_stored
        #: Bounded by what the spool holds, which the journal's bound covers.
        self._queue: asyncio.Queue[SealedContent] = asyncio.Queue()
        self._known: set[SealedContent] = set()

    def offer(self, segments: Iterable[SealedContent]) -> None:
        """These are to be stored; those already offered are not taken twice."""
        for segment in segments:
            if segment not in self._known:
                self._known.add(segment)
                self._queue.put_nowait(segment)

    async def run(self) -> None:
        """Upload until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._upload_all(), name=f"upload-{number}")

    async def _upload_all(self) -> None:
        while True:
            segment = await self._queue.get()
            retry_seconds = FIRST_RETRY_SECONDS
            while not await self._try_upload(segment):
                await asyncio.sleep(random.uniform(0, retry_seconds))  # noqa: S311 - jitter, not a secret
                retry_seconds = min(2 * retry_seconds, MAX_RETRY_SECONDS)
            await self._on_stored(segment)
            self._known.discard(segment)

    async def _try_upload(self, segment: SealedContent) -> bool:
        path = self._path(segment)
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:  # stored before the last restart; the cursor could not say so any more
            return True
        try:
            ticket = await self._link.request_upload(
                session_id=segment.session_id,
                index=segment.index,
                sha256=await asyncio.to_thread(lambda: sha256(data).digest()),
                size_bytes=len(data),
            )
            if ticket.url:
                response = await self._client.put(
                    self._origin.join(ticket.url), content=data, headers=ticket.headers, timeout=UPLOAD_SECONDS
                )
                response.raise_for_status()
        except httpx.HTTPStatusError as error:
            return self._note_failure(segment, f"HTTP {error.response.status_code}")
        except (LinkError, httpx.HTTPError) as error:  # neither text is shown: it may hold the signed URL
            return self._note_failure(segment, type(error).__name__)
        return True

    def _note_failure(self, segment: SealedContent, problem: str) -> bool:
        _log.warning("content_not_stored", session=segment.session_id, index=segment.index, problem=problem)
        return False
