"""Sealed content segments on their way to storage."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
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
#: Held of each segment while it is sent: several whole ones, with the copies on their way out, cost 200 MiB.
CHUNK_BYTES: Final = 256 * 1024
FIRST_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


class Uploader:
    """Asks for a place for each segment, puts it there, and tells; tries again, ever later, for as long as it takes.

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
        #: Every segment that was offered and isn't stored, with how often it has failed.
        self._failures: dict[SealedContent, int] = {}

    def offer(self, segments: Iterable[SealedContent]) -> None:
        """These are to be stored; those already offered are not taken twice."""
        for segment in segments:
            if segment not in self._failures:
                self._failures[segment] = 0
                self._queue.put_nowait(segment)

    async def run(self) -> None:
        """Upload until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._upload_all(), name=f"upload-{number}")

    async def _upload_all(self) -> None:
        while True:
            segment = await self._queue.get()
            problem = await self._upload(segment)
            if problem:
                self._try_later(segment, problem)
            else:
                del self._failures[segment]

    def _try_later(self, segment: SealedContent, problem: str) -> None:
        """Full jitter; meanwhile the others have their turn."""
        self._failures[segment] += 1
        ceiling = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures[segment], 10))
        delay_seconds = random.uniform(0, ceiling)  # noqa: S311 - jitter, not a secret
        asyncio.get_running_loop().call_later(delay_seconds, self._queue.put_nowait, segment)
        _log.warning("content_not_stored", session=segment.session_id, index=segment.index, problem=problem)

    async def _upload(self, segment: SealedContent) -> str:
        """What kept the segment from being stored, or "". Says nothing of the upload's URL, which is signed."""
        try:
            path = self._path(segment)
            size_bytes, sha256 = await asyncio.to_thread(_measure, path)
            ticket = await self._link.request_upload(
                session_id=segment.session_id, index=segment.index, sha256=sha256, size_bytes=size_bytes
            )
            if ticket.url:
                response = await self._client.put(
                    self._origin.join(ticket.url),
                    content=_read(path),
                    headers={**ticket.headers, "Content-Length": str(size_bytes)},
                    timeout=UPLOAD_SECONDS,
                )
                if not response.is_success:
                    return f"HTTP {response.status_code}"
            await self._on_stored(segment)
        except FileNotFoundError:  # stored before the last restart; the cursor could not say so any more
            return ""
        except LinkError as error:
            return str(error)
        except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return ""


def _measure(path: Path) -> tuple[int, bytes]:
    """Size and SHA-256 of the file. Raises `OSError`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return file.tell(), digest


async def _read(path: Path) -> AsyncIterator[bytes]:
    """The file, piece by piece. Raises `OSError`."""
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield data
