"""What daphne takes in before anything of ours is asked.

A request's whole body is on disk before Django sees its first line, whoever sends it: daphne has no bound for that.
And the header `Daphne-Root-Path`, which is meant for proxies, would put a client's text in front of every address that
a page or a message is given. Neither can be configured away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from daphne import http_protocol

#: Above Django's own bound for forms and REST, which tells what is too long in words. Uploads have tickets.
MAX_BODY_BYTES: Final = 2 * 1024 * 1024
_TOO_LARGE: Final = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def bound_bodies(allowed: Callable[[str], int]) -> None:
    """Have daphne drop connections that send more. `allowed`: the bytes for a path, where those are more."""

    class BoundedRequest(http_protocol.WebRequest):  # type: ignore[misc]  # untyped
        """Twisted calls these as headers and body arrive; `process`, daphne's, only when all is there."""

        def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's
            path = self.channel._path.decode("ascii", "replace")  # noqa: SLF001 - Twisted tells no earlier
            self._left_bytes = max(MAX_BODY_BYTES, allowed(path))
            super().gotLength(min(length or 0, self._left_bytes))
            if length is not None and length > self._left_bytes:
                self._refuse()

        def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's
            self._left_bytes -= len(data)
            if self._left_bytes >= 0:
                super().handleContentChunk(data)
            else:
                self._refuse()

        def _refuse(self) -> None:
            self._left_bytes = -1
            self.channel.transport.write(_TOO_LARGE)
            self.channel.loseConnection()

    http_protocol.WebRequest = BoundedRequest


def at_the_root(application: Application) -> Application:
    """The application, which is served at the root whatever a client says."""

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await application({**scope, "root_path": ""}, receive, send)

    return answer
