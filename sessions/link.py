"""The control plane's end of a worker's link: a Channels consumer that speaks `proxyworker.contract`.

    Challenge ─► Enrol | Authenticate ─► Welcome, and from then on
        receive   each frame becomes a task, bounded by semaphores; batches of records stay in their order
        watch     at each wake-up, and every `POLL_SECONDS`: which sessions have to end, may this worker still serve,
              what was decided of the operations that it holds

The database is asked in threads, several at once. A worker that breaks the contract is cut off, with one line in the
log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final
from uuid import UUID

import structlog
from channels.generic.websocket import AsyncWebsocketConsumer
from django.utils import timezone

from proxyworker.contract import (
    LINK_VERSION,
    MAX_FRAME_BYTES,
    Ack,
    AppendRecords,
    ApprovalPreview,
    ApprovalState,
    ApprovalTicket,
    Authenticate,
    Challenge,
    CloseSession,
    ContractError,
    CountValues,
    Enrol,
    FromControlPlane,
    FromWorker,
    Heartbeat,
    OpenSession,
    RefusalCode,
    Refused,
    RequestApproval,
    RequestUpload,
    RequestVerifier,
    ReserveBudget,
    WithdrawApproval,
    decode_from_worker,
    encode,
)
from proxyworker.net.tasks import spawn
from sessions.actions import note_closed
from sessions.approving import keep_preview, request_approval, withdraw_approval, withdraw_of_session
from sessions.budgets import count_values, reserve_budget
from sessions.errors import PeerFault
from sessions.ingest import append_records
from sessions.logins import offer_verifier
from sessions.opening import open_session
from sessions.pushing import CLOSE_REFUSED, Pushes
from sessions.signing_on import sign_on
from sessions.threads import in_record_thread, in_scope, in_thread
from sessions.uploads import offer_upload

log = structlog.get_logger(__name__)

#: A worker signs on within its first round trips; whoever takes longer is no worker.
HANDSHAKE_SECONDS: Final = 10.0
NONCE_BYTES: Final = 32
#: Questions of one link that are worked on at once; further ones wait in the socket. Two hundred agents that connect
#: in the same second are through in a few.
MAX_REQUESTS: Final = 32
#: Batches received and not yet acknowledged: each is at most a frame in memory.
MAX_BATCHES: Final = 4

#: As those of `pushing`.
CLOSE_HANDSHAKE_TIMEOUT: Final = 4408
CLOSE_FAULT: Final = 4400
CLOSE_ERROR: Final = 4500

#: What a worker asks and waits for an answer to.
Question = OpenSession | RequestUpload | RequestVerifier | RequestApproval | ReserveBudget | CountValues


class LinkConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One link. `_pushes` is None until the worker has proved who it is.

    Channels would listen to the layer for every socket, and end the link with it; `Pushes` does so for a worker that
    is signed on, and lives without.
    """

    channel_layer_alias = "none"

    async def connect(self) -> None:
        """Challenge whoever it is."""
        self._pushes: Pushes | None = None
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self._batches = asyncio.Semaphore(MAX_BATCHES)
        self._batch_order = asyncio.Lock()
        #: For `Pushes`: when the worker last said something.
        self.heard_at = asyncio.get_running_loop().time()
        self.is_closing = False
        await self.accept()
        await self.say(Challenge(link_version=LINK_VERSION, nonce=self._nonce))
        self._start("handshake-deadline", self._limit_handshake())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take one frame; returns when the next may come."""
        if self.is_closing:
            return
        #: For `Pushes`: when the worker last said something.
        self.heard_at = asyncio.get_running_loop().time()
        try:
            if bytes_data is None or len(bytes_data) > MAX_FRAME_BYTES:
                raise PeerFault("a text frame" if text_data is not None else "a frame over the bound")
            frame = decode_from_worker(bytes_data)
            if self._pushes is None:
                await self._sign_on(frame)
            else:
                await self._accept_frame(self._pushes, frame)
        except ContractError:
            await self.fault("a frame that is none of ours")
        except PeerFault as error:
            await self.fault(error.fault)
        except Exception:  # such as a database that is gone: the worker comes back by itself
            log.exception("link_failed", client=self._peer())
            await self._close(CLOSE_ERROR)

    async def disconnect(self, code: int) -> None:
        """The socket is gone: whatever still runs for it is of no use."""
        self.is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._pushes is not None:
            worker = self._pushes.worker
            log.info("link_closed", worker=worker.name, process=worker.process, code=code)
            await self._pushes.closed()

    # ------------------------------------------------------------ signing on

    async def _sign_on(self, frame: FromWorker) -> None:
        if not isinstance(frame, Enrol | Authenticate):
            raise PeerFault("a question before signing on")
        answer = await in_thread(sign_on, frame, nonce=self._nonce, now=timezone.now())
        if isinstance(answer, Refused):
            log.warning("link_refused", code=answer.code.value, client=self._peer())
            await self.say(answer)
            await self._close(CLOSE_REFUSED)
            return
        worker = answer.worker
        self._pushes = pushes = Pushes(answer, self)
        log.info(
            "link_opened", worker=worker.name, process=worker.process, tenant=str(worker.tenant_id), client=self._peer()
        )
        await self.say(answer.welcome)
        self._start("listen", pushes.listen())
        self._start("watch", pushes.watch())

    async def _limit_handshake(self) -> None:
        await asyncio.sleep(HANDSHAKE_SECONDS)
        if self._pushes is None:
            await self.fault("no sign-on in time", CLOSE_HANDSHAKE_TIMEOUT)

    # ------------------------------------------------------------ questions

    async def _accept_frame(self, pushes: Pushes, frame: FromWorker) -> None:
        worker = pushes.worker
        match frame:
            case (
                OpenSession()
                | RequestUpload()
                | RequestVerifier()
                | RequestApproval()
                | ReserveBudget()
                | CountValues()
            ):
                await self._requests.acquire()
                self._start("answer", self._answer(pushes, frame), then=self._requests.release)
            case AppendRecords():
                await self._batches.acquire()
                self._start("append", self._append(pushes, frame), then=self._batches.release)
            case CloseSession(session_id=session_id, reason=reason):
                now = timezone.now()
                note = in_scope(worker, note_closed)
                await in_thread(note, _uuid(session_id), worker_id=worker.id, reason=reason, now=now)
                await in_thread(withdraw_of_session, worker, _uuid(session_id), now=now)
                pushes.recorded()
            case WithdrawApproval():
                await in_thread(withdraw_approval, worker, frame, now=timezone.now())
            case ApprovalPreview():
                await in_thread(keep_preview, worker, frame, now=timezone.now())
            case Heartbeat():
                await pushes.heartbeat(frame)
            case Enrol() | Authenticate():
                raise PeerFault("a second sign-on")

    async def _answer(self, pushes: Pushes, frame: Question) -> None:
        worker = pushes.worker
        answer: FromControlPlane
        try:
            if pushes.is_dismissed:
                answer = _refused_as_dismissed(frame.request_id)
            elif isinstance(frame, OpenSession):
                answer = await in_thread(open_session, worker, frame, now=timezone.now())
            elif isinstance(frame, RequestVerifier):
                answer = await in_thread(offer_verifier, worker, frame)
            elif isinstance(frame, ReserveBudget):
                answer = await in_thread(reserve_budget, worker, frame, now=timezone.now())
            elif isinstance(frame, CountValues):
                answer = await in_thread(count_values, worker, frame, now=timezone.now())
            elif isinstance(frame, RequestApproval):
                answer = await in_thread(request_approval, worker, frame, now=timezone.now())
            else:
                answer = await in_thread(offer_upload, worker, frame)
        except PeerFault as error:
            await self.fault(error.fault)
            return
        except Exception:  # whatever it is, the agent is refused and the link goes on
            log.exception("request_failed", worker=worker.name, request=type(frame).__name__)
            answer = Refused(
                request_id=frame.request_id,
                code=RefusalCode.UNAVAILABLE,
                reason="the control plane could not answer",
                help="Try again in a minute.",
            )
        await self.say(answer)
        if isinstance(answer, ApprovalTicket) and answer.state is ApprovalState.PENDING:
            pushes.hold(UUID(answer.approval_id))  # after the ticket, so that no decision overtakes it

    async def _append(self, pushes: Pushes, frame: AppendRecords) -> None:
        worker = pushes.worker
        async with self._batch_order:  # a lock wakes its waiters in their order
            try:
                seq = await in_record_thread(append_records, worker, frame)
            except PeerFault as error:
                await self.fault(error.fault)
                return
            except Exception:  # not acknowledged, so the worker sends it again on its next link
                log.exception("append_failed", worker=worker.name)
                await self._close(CLOSE_ERROR)
                return
            pushes.recorded()
            await self.say(Ack(request_id=frame.request_id, journal_id=frame.journal_id, seq=seq))

    # ------------------------------------------------------------ the socket

    def _start(
        self, name: str, coroutine: Coroutine[Any, Any, None], *, then: Callable[[], None] | None = None
    ) -> None:
        task = spawn(f"link-{name}", coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if then is not None:
            task.add_done_callback(lambda _: then())

    async def say(self, frame: FromControlPlane) -> None:
        """One frame out; nothing once the link is closing."""
        if not self.is_closing:
            await self.send(bytes_data=encode(frame))

    async def fault(self, fault: str, code: int = CLOSE_FAULT) -> None:
        """Close the link, with one line in the log."""
        if not self.is_closing:
            worker = self._pushes.worker.name if self._pushes else None
            log.warning("link_fault", fault=fault, worker=worker, client=self._peer())
            await self._close(code)

    async def _close(self, code: int) -> None:
        if not self.is_closing:
            self.is_closing = True
            await self.close(code)

    def _peer(self) -> str | None:
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else None


def _refused_as_dismissed(request_id: int) -> Refused:
    return Refused(
        request_id=request_id,
        code=RefusalCode.WORKER_DISABLED,
        reason="this worker was withdrawn",
        help="Connect to another worker of the tenant.",
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise PeerFault("an id that is none") from error
