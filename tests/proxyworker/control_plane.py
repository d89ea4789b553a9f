"""A control plane as a worker sees it: a real WebSocket server that speaks the contract, and a place for uploads.

It is strict, as the real one is: it checks signatures, contiguity, chains and digests, and takes a join token once.
Tests reach into it to break things.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from policies.engine import Effect, Policy, Principal, Rule
from proxyworker.contract import (
    LINK_SIGNATURE_CONTEXT,
    LINK_VERSION,
    MAX_FRAME_BYTES,
    Ack,
    AppendRecords,
    ApprovalPreview,
    ApprovalState,
    ApprovalTicket,
    Authenticate,
    BudgetLease,
    Challenge,
    CloseSession,
    CountValues,
    Enrol,
    FromControlPlane,
    FromWorker,
    Heartbeat,
    JournalOpened,
    LoginVerifier,
    OpenSession,
    OperationIntent,
    OperationOutcome,
    Record,
    RefusalCode,
    Refused,
    RequestApproval,
    RequestUpload,
    RequestVerifier,
    ReserveBudget,
    Secret,
    SessionClosed,
    SessionGrant,
    SessionLimits,
    SessionOpened,
    TargetEndpoint,
    TlsMode,
    UploadTicket,
    UpstreamCredential,
    ValuesCounted,
    Welcome,
    WithdrawApproval,
    decode_from_worker,
    decode_record,
    encode,
)

JOIN_TOKEN = "ngj_test_once"
TENANT = str(uuid.UUID(int=77))


@dataclass
class HeldJournal:
    """What was appended of one journal."""

    seq: int = 0
    chain: bytes = bytes(32)
    records: list[Record] = field(default_factory=list)


@dataclass
class ControlPlane:
    """The state behind all links, and how to behave."""

    join_tokens: set[str] = field(default_factory=lambda: {JOIN_TOKEN})
    workers: dict[str, bytes] = field(default_factory=dict)
    journals: dict[str, HeldJournal] = field(default_factory=dict)
    segments: dict[tuple[str, int], bytes] = field(default_factory=dict)
    heard: list[FromWorker] = field(default_factory=list)
    links: list[ServerConnection] = field(default_factory=list)
    #: Batches after which the link is cut: appended, but not acknowledged.
    cut_after_batches: int | None = None
    #: Batches that are answered with what was held before: as if they had not come.
    ignored_batches: int = 0
    #: Whether upload URLs are absolute: uploads have another port than links, and a real worker knows the link's.
    uploads_elsewhere: bool = False
    #: Segments that are refused for good.
    refused_segments: set[tuple[str, int]] = field(default_factory=set)
    #: Uploads that fail before one succeeds.
    failing_uploads: int = 0
    #: An `OpenSession` for this target is not answered until `answer_now` is set.
    slow_target: str = "slow"
    answer_now: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    #: Where granted sessions lead: to one that asks for no password there, or to this one.
    target_port: int = 5432
    target: tuple[TargetEndpoint, UpstreamCredential] | None = None
    port: int = 0
    upload_port: int = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/link/v1/"

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.upload_port}/"

    @property
    def records(self) -> list[Record]:
        """Of the one journal that there is."""
        return [record for held in self.journals.values() for record in held.records]

    async def heard_of(self, kind: type[FromWorker], *, times: int = 1) -> None:
        """Return when frames of this kind have come."""
        async with self.changed:
            await self.changed.wait_for(lambda: sum(isinstance(frame, kind) for frame in self.heard) >= times)

    async def has_records(self, count: int) -> None:
        """Return when so many records are held."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.records) >= count)

    async def is_signed_on(self, *processes: int) -> None:
        """Return when each of these processes of a worker has signed on, once or more."""
        async with self.changed:
            await self.changed.wait_for(lambda: set(processes) <= self._signed_on())

    def _signed_on(self) -> set[int]:
        return {frame.process for frame in self.heard if isinstance(frame, Authenticate | Enrol)}

    async def is_settled(self, *, starts: int) -> None:
        """Return when a worker's last start is on record, of so many, and the end of everything before it."""
        async with self.changed:
            await self.changed.wait_for(lambda: self._starts() == starts and self._unsettled() == 0)

    def _starts(self) -> int:
        return sum(isinstance(record, JournalOpened) for record in self.records)

    def _unsettled(self) -> int:
        begun = sum(isinstance(record, OperationIntent | SessionOpened) for record in self.records)
        return begun - sum(isinstance(record, OperationOutcome | SessionClosed) for record in self.records)

    async def _note(self, frame: FromWorker) -> None:
        async with self.changed:
            self.heard.append(frame)
            self.changed.notify_all()

    async def say(self, frame: FromControlPlane) -> None:
        """Push a frame to every link."""
        for link in self.links:
            await link.send(encode(frame))

    async def cut(self) -> None:
        """End every link, as a restart of web does."""
        for link in tuple(self.links):
            await link.close(1012)

    async def handle(self, socket: ServerConnection) -> None:
        """One link."""
        try:
            if not await self._sign_on(socket):
                return
            self.links.append(socket)
            async for data in socket:
                frame = _decode(data)
                await self._note(frame)
                await self._answer(socket, frame)
        except ConnectionClosed:
            return
        finally:
            if socket in self.links:
                self.links.remove(socket)

    async def _sign_on(self, socket: ServerConnection) -> bool:
        nonce = secrets.token_bytes(32)
        await socket.send(encode(Challenge(link_version=LINK_VERSION, nonce=nonce)))
        frame = _decode(await socket.recv())
        await self._note(frame)
        if isinstance(frame, Enrol):
            if frame.join_token.value not in self.join_tokens:
                await self._refuse(socket, RefusalCode.BAD_JOIN_TOKEN)
                return False
            worker_id, key = str(uuid.uuid4()), frame.public_key
        elif isinstance(frame, Authenticate) and frame.worker_id in self.workers:
            worker_id, key = frame.worker_id, self.workers[frame.worker_id]
        else:
            await self._refuse(socket, RefusalCode.BAD_SIGNATURE)
            return False
        numbers = b"" if frame.processes == 1 else struct.pack(">HH", frame.process, frame.processes)
        Ed25519PublicKey.from_public_bytes(key).verify(frame.signature, LINK_SIGNATURE_CONTEXT + nonce + key + numbers)
        self.workers[worker_id] = key
        self.join_tokens.discard(frame.join_token.value if isinstance(frame, Enrol) else "")
        acknowledged = {journal_id: held.seq for journal_id, held in self.journals.items()}
        await socket.send(
            encode(Welcome(worker_id=worker_id, tenant_id=TENANT, heartbeat_seconds=0.05, acknowledged=acknowledged))
        )
        return True

    async def _refuse(self, socket: ServerConnection, code: RefusalCode) -> None:
        await socket.send(encode(Refused(request_id=0, code=code, reason="no")))
        await socket.close(4401)

    async def _answer(self, socket: ServerConnection, frame: FromWorker) -> None:  # noqa: C901, PLR0912 - an arm a frame
        match frame:
            case OpenSession():
                if frame.target == self.slow_target:
                    await self.answer_now.wait()
                answer = grant_or_refuse(frame, target_port=self.target_port)
                await socket.send(encode(self._with_target(answer)))
            case RequestVerifier(request_id=request_id, login=login):
                is_busy = login == "busy"
                refused = Refused(request_id, RefusalCode.BUSY, "too many logins")
                verifier = LoginVerifier(request_id, Secret(f"verifier of {login}"))
                await socket.send(encode(refused if is_busy else verifier))
            case AppendRecords():
                if self.ignored_batches:
                    self.ignored_batches -= 1
                    held = self.journals.setdefault(frame.journal_id, HeldJournal())
                else:
                    held = self.append(frame)
                async with self.changed:
                    self.changed.notify_all()
                if self.cut_after_batches is not None:
                    self.cut_after_batches -= 1
                    if self.cut_after_batches < 0:
                        self.cut_after_batches = None
                        await socket.close(1012)
                        return
                await socket.send(encode(Ack(request_id=frame.request_id, journal_id=frame.journal_id, seq=held.seq)))
            case RequestUpload():
                await socket.send(encode(self._answer_upload(frame)))
            case RequestApproval():
                await self._answer_approval(socket, frame)
            case ReserveBudget(request_id=request_id, rule=rule, wanted=wanted):
                refused = Refused(request_id, RefusalCode.UNAVAILABLE, "nothing is counted now")
                lease = BudgetLease(request_id, wanted, wanted, period_start=0.0, resets_at=60.0, lasts_seconds=30.0)
                await socket.send(encode(refused if rule == "uncounted" else lease))
            case CountValues(request_id=request_id, rule=rule, values=values):
                refused = Refused(request_id, RefusalCode.UNAVAILABLE, "nothing is counted now")
                counted = ValuesCounted(request_id, len(values) // 16, 7, Secret("00" * 32), 0.0, 60.0)
                await socket.send(encode(refused if rule == "uncounted" else counted))
            case CloseSession() | Heartbeat() | WithdrawApproval() | ApprovalPreview():
                pass
            case _:
                raise AssertionError(f"{type(frame).__name__} after signing on")

    def _with_target(self, answer: SessionGrant | Refused) -> SessionGrant | Refused:
        if self.target is None or isinstance(answer, Refused):
            return answer
        return msgspec.structs.replace(answer, target=self.target[0], credential=self.target[1])

    def _answer_upload(self, frame: RequestUpload) -> UploadTicket | Refused:
        if (frame.session_id, frame.index) in self.refused_segments:
            return Refused(request_id=frame.request_id, code=RefusalCode.DENIED, reason="another is kept")
        there = (frame.session_id, frame.index) in self.segments
        path = f"segments/{frame.session_id}/{frame.index}/{frame.sha256.hex()}"
        url = "" if there else (self.origin if self.uploads_elsewhere else "/") + path
        return UploadTicket(request_id=frame.request_id, url=url, headers={"X-Test": "1"})

    async def _answer_approval(self, socket: ServerConnection, frame: RequestApproval) -> None:
        """The flow "nobody" is refused; the flow "slow" is answered when `answer_now` is set."""
        approval = frame.decision.approval
        flow = approval.flow if approval is not None else "nobody"
        if flow == "nobody":
            refused = Refused(request_id=frame.request_id, code=RefusalCode.DENIED, reason="there is no such flow")
            await socket.send(encode(refused))
            return
        if flow == "slow":
            await self.answer_now.wait()
        approval_id = f"{frame.session_id}:{frame.op}"
        url = f"https://narrowgate.example/approvals/{approval_id}"
        await socket.send(
            encode(ApprovalTicket(frame.request_id, approval_id, url, ApprovalState.PENDING, "", 2_000_000_000.0))
        )

    def append(self, frame: AppendRecords) -> HeldJournal:
        """As the real one does: gap → what is held; overlap → skip; a chain that doesn't fit → error."""
        held = self.journals.setdefault(frame.journal_id, HeldJournal())
        if frame.first_seq > held.seq + 1:
            return held
        chain = frame.chain_before
        for offset, record in enumerate(frame.records):
            seq = frame.first_seq + offset
            if seq == held.seq + 1:
                if chain != held.chain:
                    raise AssertionError(f"record {seq} is not chained to what is held")
                held.seq = seq
                held.chain = sha256(chain + record).digest()
                held.records.append(decode_record(record))
            chain = sha256(chain + record).digest()
        if chain != frame.chain_after:
            raise AssertionError("chain_after is wrong")
        return held


def _decode(data: str | bytes) -> FromWorker:
    assert isinstance(data, bytes)
    return decode_from_worker(data)


def grant_or_refuse(question: OpenSession, *, target_port: int) -> SessionGrant | Refused:
    """The target "secret" is refused, every other granted."""
    if question.target == "secret":
        return Refused(
            request_id=question.request_id, code=RefusalCode.DENIED, reason="no rule allows it", help="Ask for one."
        )
    return SessionGrant(
        request_id=question.request_id,
        session_id=str(uuid.uuid4()),
        tenant_id=TENANT,
        principal=Principal(id=str(uuid.uuid4()), name="reporter"),
        target=TargetEndpoint(
            id=str(uuid.uuid4()),
            name=question.target,
            protocol=question.protocol,
            host="127.0.0.1",
            port=target_port,
            database="shop",
            tls_mode=TlsMode.DISABLE,
        ),
        credential=UpstreamCredential(username="shop", secret=Secret("target-password")),
        policy=Policy(version="test@1", rules=(Rule(name="all", effect=Effect.ALLOW, agents=("*",), targets=("*",)),)),
        limits=SessionLimits(),
        expires_at=2_000_000_000.0,
    )


@asynccontextmanager
async def running_control_plane() -> AsyncIterator[ControlPlane]:
    """Serve on loopback, links on one port and uploads on another."""
    control_plane = ControlPlane()
    uploads = ThreadingHTTPServer(("127.0.0.1", 0), _upload_handler(control_plane))
    thread = threading.Thread(target=uploads.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        async with serve(
            control_plane.handle, "127.0.0.1", 0, max_size=MAX_FRAME_BYTES, compression=None, close_timeout=1
        ) as server:
            control_plane.port = _port(server)
            control_plane.upload_port = uploads.server_address[1]
            yield control_plane
    finally:
        uploads.shutdown()
        uploads.server_close()
        thread.join()


def _port(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


def _upload_handler(control_plane: ControlPlane) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            _, _, session_id, index, digest = self.path.split("/")
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if control_plane.failing_uploads:
                control_plane.failing_uploads -= 1
                self.send_error(503)
                return
            if sha256(data).hexdigest() != digest or self.headers["X-Test"] != "1":
                self.send_error(400)
                return
            control_plane.segments[session_id, int(index)] = data
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

    return Handler
