"""An identity provider on loopback, as honest or as hostile as a test wants it: real HTTP, real keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

AUDIENCE = "narrowgate"


@dataclass(slots=True)
class Provider:
    """`documents` maps paths to what is served there: a JSON value, or raw bytes. `asked` lists the paths asked for,
    `posted` has what was sent there last. `headers` go with every answer."""

    url: str
    keys: dict[str, RSAKey | ECKey]
    documents: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    posted: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def jwks_url(self) -> str:
        """Where the keys are."""
        return f"{self.url}/keys"

    def publish(self) -> None:
        """Serve the public halves of the keys, and a discovery document that names them."""
        self.documents["/keys"] = {"keys": [key.as_dict(private=False) for key in self.keys.values()]}
        self.documents["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": self.jwks_url}

    def sign(
        self,
        claims: dict[str, Any],
        *,
        key_id: str = "rsa",
        algorithm: str = "RS256",
        header: dict[str, Any] | None = None,
        key: Any = None,
    ) -> str:
        """A token with these claims. `header` adds to, or replaces, what a sound header has."""
        whole = {"alg": algorithm, "kid": key_id, "typ": "JWT", **(header or {})}
        protected = {name: value for name, value in whole.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[*jws.JWSRegistry.algorithms], strict_check_header=False)
        signer = self.keys[key_id] if key is None else key
        return jws.serialize_compact(protected, json.dumps(claims), signer, registry=registry)


@contextmanager
def running_provider() -> Iterator[Provider]:
    """A provider with an RSA and an EC key, published."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            document = provider.documents.get(self.path)
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Length", str(len(body)))
            for name, text in provider.headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            provider.posted[self.path] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its signature
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(
        url=f"http://127.0.0.1:{server.server_port}",
        keys={
            "rsa": RSAKey.generate_key(2048, parameters={"kid": "rsa", "use": "sig"}),
            "ec": ECKey.generate_key("P-256", parameters={"kid": "ec", "use": "sig"}),
        },
    )
    provider.publish()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
