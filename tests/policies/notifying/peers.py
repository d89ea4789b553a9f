"""Peers on loopback that speak what the real ones document: Slack's Web API, a Teams workflow, a webhook's receiver."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

BOT_TOKEN = "xoxb-1-2-secretbottoken"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; of Slack's form encoding, each field with its JSON read."""
        if "x-www-form-urlencoded" in self.headers.get("content-type", ""):
            form = {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
            return {name: json.loads(text) if text[:1] in "[{" else text for name, text in form.items()}
        return json.loads(self.body)


@dataclass(slots=True)
class Peer:
    """`answers` are given in their order, then 200: (status, headers, body)."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Give this answer once."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers.append((status, named, body))


@contextmanager
def running_peer() -> Iterator[Peer]:
    """A peer. Under `/api/` it is Slack: a known method with the bot's token is answered as documented."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): text for name, text in self.headers.items()}
            request = Received(self.path, headers, body)
            peer.received.append(request)
            status, extra, answer = peer.answers.pop(0) if peer.answers else (200, {}, self._usual(request))
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **extra}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _usual(self, request: Received) -> bytes:
            if not request.path.startswith("/api/"):
                return b'{"thanks": true}'
            if request.headers.get("authorization") != f"Bearer {BOT_TOKEN}":
                return b'{"ok": false, "error": "invalid_auth"}'
            if request.path in ("/api/chat.postMessage", "/api/chat.update"):
                said = request.json
                ts = said.get("ts", f"1700000000.{len(peer.received):06}")
                return json.dumps({"ok": True, "channel": said["channel"], "ts": ts}).encode()
            if request.path == "/api/views.open":
                return b'{"ok": true, "view": {"id": "V1"}}'
            return b'{"ok": false, "error": "unknown_method"}'

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its signature
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer = Peer(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
