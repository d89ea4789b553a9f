"""A scripted worker: the far end of a link, frame by frame."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyworker.contract import (
    LINK_SIGNATURE_CONTEXT,
    LINK_VERSION,
    Authenticate,
    Challenge,
    Enrol,
    FromControlPlane,
    FromWorker,
    OpenSession,
    PolicyChanged,
    Secret,
    TlsFacts,
    Welcome,
    decode_from_control_plane,
    encode,
)
from sessions.routing import websocket_urlpatterns
from sessions.threads import QUESTION_THREADS
from tests.sessions.conftest import Site

T = TypeVar("T")

#: The bound on each answer; a sound one comes within milliseconds.
ANSWER_SECONDS = 20


class ScriptedWorker:
    """Sends and receives frames. `challenge` is the control plane's first word."""

    def __init__(self, socket: WebsocketCommunicator, challenge: Challenge) -> None:
        self.socket = socket
        self.challenge = challenge

    async def send(self, frame: FromWorker) -> None:
        """One frame out."""
        await self.socket.send_to(bytes_data=encode(frame))

    async def receive(self, kind: type[T]) -> T:
        """The next frame, which is of this kind; what it says of the policy comes whenever it comes."""
        while True:
            frame: FromControlPlane = decode_from_control_plane(await self.socket.receive_from(ANSWER_SECONDS))
            if isinstance(frame, kind):
                return frame
            assert isinstance(frame, PolicyChanged), frame

    async def closed_with(self) -> int:
        """The code with which the control plane closes the link; nothing but the policy may come before."""
        message = await self.socket.receive_output(ANSWER_SECONDS)
        while message["type"] == "websocket.send":
            assert isinstance(decode_from_control_plane(message["bytes"]), PolicyChanged)
            message = await self.socket.receive_output(ANSWER_SECONDS)
        assert message["type"] == "websocket.close", message
        code: int = message["code"]
        return code

    def signature(self, key: Ed25519PrivateKey, numbers: bytes = b"") -> bytes:
        """Over the challenge, by this key."""
        public_key = key.public_key().public_bytes_raw()
        return key.sign(LINK_SIGNATURE_CONTEXT + self.challenge.nonce + public_key + numbers)

    async def authenticate(self, site: Site, *, process: int = 0, processes: int = 1) -> Welcome:
        """Sign on as the site's worker."""
        numbers = struct.pack(">HH", process, processes) if processes > 1 else b""
        signature = self.signature(site.key, numbers)
        frame = Authenticate(LINK_VERSION, str(site.worker.pk), signature, process=process, processes=processes)
        await self.send(frame)
        return await self.receive(Welcome)

    def enrolment(self, token: str, name: str, key: Ed25519PrivateKey) -> Enrol:
        """The frame that enrols with this token."""
        return Enrol(
            link_version=LINK_VERSION,
            join_token=Secret(token),
            name=name,
            public_key=key.public_key().public_bytes_raw(),
            signature=self.signature(key),
        )


@asynccontextmanager
async def connected() -> AsyncIterator[ScriptedWorker]:
    """A link that has been challenged."""
    socket = WebsocketCommunicator(URLRouter(websocket_urlpatterns), "/link/v1/")
    is_accepted, _ = await socket.connect(ANSWER_SECONDS)
    assert is_accepted
    challenge = decode_from_control_plane(await socket.receive_from(ANSWER_SECONDS))
    assert isinstance(challenge, Challenge)
    try:
        yield ScriptedWorker(socket, challenge)
    finally:
        await socket.disconnect(timeout=ANSWER_SECONDS)
        await _threads_are_idle()


async def _threads_are_idle() -> None:
    """Wait until no question is in a thread any more: it would hold locks when the test's tables are emptied."""
    count = QUESTION_THREADS._max_workers
    together = threading.Barrier(count)
    loop = asyncio.get_running_loop()
    waiting = (loop.run_in_executor(QUESTION_THREADS, together.wait, ANSWER_SECONDS) for _ in range(count))
    await asyncio.gather(*waiting)


@asynccontextmanager
async def signed_on(site: Site, *, process: int = 0, processes: int = 1) -> AsyncIterator[ScriptedWorker]:
    """A link of the site's worker, or of one of its processes."""
    async with connected() as worker:
        await worker.authenticate(site, process=process, processes=processes)
        yield worker


def question(credential: str, *, target: str = "shop", request_id: int = 1, protocol: str = "postgres") -> OpenSession:
    """May this credential have a session on that target?"""
    return OpenSession(
        request_id=request_id,
        protocol=protocol,
        target=target,
        credential=Secret(credential),
        client_address="10.1.2.3:50000",
        client_name="psql",
        tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    )
