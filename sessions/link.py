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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.db import close_old_connections
from django.utils import timezone
from django_scopes import scope
from redis.exceptions import RedisError

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
    Enrol,
    FromControlPlane,
    FromWorker,
    Heartbeat,
    OpenSession,
    PolicyChanged,
    RefusalCode,
    Refused,
    RequestApproval,
    RequestUpload,
    RequestVerifier,
    ReserveBudget,
    Revoke,
    WithdrawApproval,
    decode_from_worker,
    encode,
)
from proxyworker.net.tasks import spawn
from sessions.access import has_open_sessions, standing_of
from sessions.actions import note_closed, worker_group
from sessions.approving import (
    keep_preview,
    news_of,
    request_approval,
    withdraw_approval,
    withdraw_of_session,
)
from sessions.budgets import reserve_budget
from sessions.errors import PeerFault
from sessions.ingest import LinkedWorker, append_records
from sessions.logins import offer_verifier
from sessions.opening import open_session
from sessions.signing_on import SignedOn, sign_on
from sessions.uploads import offer_upload
from targets.actions import note_sign_of_life
from targets.models import SILENT_AFTER_SECONDS

log = structlog.get_logger(__name__)

#: A worker signs on within its first round trips; whoever takes longer is no worker.
HANDSHAKE_SECONDS: Final = 10.0
NONCE_BYTES: Final = 32
#: Wake-ups get lost; what they would have said is seen this much later.
POLL_SECONDS: Final = 5.0
#: Between two rounds that nobody woke: what has lapsed is asked for again this soon when the database didn't answer.
LEAST_ROUND_SECONDS: Final = 0.2
#: A worker that was withdrawn may say how its sessions ended, for so long: its journal has that within milliseconds.
DISMISSED_SECONDS: Final = 5.0
#: Questions of one link that are worked on at once; further ones wait in the socket. Two hundred agents that connect
#: in the same second are through in a few.
MAX_REQUESTS: Final = 32
#: Batches received and not yet acknowledged: each is at most a frame in memory.
MAX_BATCHES: Final = 4

#: WebSocket close codes (RFC 6455, 7.4.2: 4000 to 4999 are private). The worker reconnects after each.
CLOSE_REFUSED: Final = 4401
CLOSE_HANDSHAKE_TIMEOUT: Final = 4408
CLOSE_FAULT: Final = 4400
CLOSE_SILENT: Final = 4409
CLOSE_ERROR: Final = 4500

#: Threads of this process, for all links. Records have their own: a question may wait for an identity provider. Both
#: together leave connections of the database's pool to web requests.
_QUESTION_THREADS: Final = ThreadPoolExecutor(max_workers=6, thread_name_prefix="link-question")
_RECORD_THREADS: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="link-record")

#: What a worker asks and waits for an answer to.
Question = OpenSession | RequestUpload | RequestVerifier | RequestApproval | ReserveBudget

P = ParamSpec("P")
T = TypeVar("T")


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, which uses the database, in a thread of its pool."""

    def call() -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    executor = _RECORD_THREADS if function is append_records else _QUESTION_THREADS
    return await sync_to_async(call, thread_sensitive=False, executor=executor)()


def _in_scope(worker: LinkedWorker, function: Callable[P, T]) -> Callable[P, T]:
    """The function, to be called in the worker's scope."""

    def scoped(*args: P.args, **kwargs: P.kwargs) -> T:
        with scope(tenant=worker.tenant_id):
            return function(*args, **kwargs)

    return scoped


class LinkConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One link. `_signed_on` is None until the worker has proved who it is.

    Channels would listen to the layer for every socket, and end the link with it; `_listen` does so for a worker that
    is signed on, and lives without.
    """

    channel_layer_alias = "none"

    async def connect(self) -> None:
        """Challenge whoever it is."""
        loop = asyncio.get_running_loop()
        self._signed_on: SignedOn | None = None
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self._batches = asyncio.Semaphore(MAX_BATCHES)
        self._batch_order = asyncio.Lock()
        self._woken = asyncio.Event()
        self._revoked: set[str] = set()
        #: Whether nothing but records is taken any more; and that some have come.
        self._is_dismissed = False
        self._recorded = asyncio.Event()
        #: Approvals that the gate was told are pending, and previews that it was asked for, at which time.
        self._held: set[UUID] = set()
        self._previews_asked: set[tuple[UUID, datetime]] = set()
        self._lapses_at: datetime | None = None
        #: What the worker was told last. Whatever was in force while it was away, it is told first of all.
        self._policy_version = ""
        self._heard_at = loop.time()
        self._is_closing = False
        await self.accept()
        await self._say(Challenge(link_version=LINK_VERSION, nonce=self._nonce))
        self._start("handshake-deadline", self._limit_handshake())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take one frame; returns when the next may come."""
        if self._is_closing:
            return
        self._heard_at = asyncio.get_running_loop().time()
        try:
            if bytes_data is None or len(bytes_data) > MAX_FRAME_BYTES:
                raise PeerFault("a text frame" if text_data is not None else "a frame over the bound")
            frame = decode_from_worker(bytes_data)
            if self._signed_on is None:
                await self._sign_on(frame)
            else:
                await self._accept_frame(self._signed_on.worker, frame)
        except ContractError:
            await self._fault("a frame that is none of ours")
        except PeerFault as error:
            await self._fault(error.fault)
        except Exception:  # such as a database that is gone: the worker comes back by itself
            log.exception("link_failed", client=self._peer())
            await self._close(CLOSE_ERROR)

    async def disconnect(self, code: int) -> None:
        """The socket is gone: whatever still runs for it is of no use."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._signed_on is not None:
            log.info("link_closed", worker=self._signed_on.worker.name, code=code)

    # ------------------------------------------------------------ signing on

    async def _sign_on(self, frame: FromWorker) -> None:
        if not isinstance(frame, Enrol | Authenticate):
            raise PeerFault("a question before signing on")
        answer = await _in_thread(sign_on, frame, nonce=self._nonce, now=timezone.now())
        if isinstance(answer, Refused):
            log.warning("link_refused", code=answer.code.value, client=self._peer())
            await self._say(answer)
            await self._close(CLOSE_REFUSED)
            return
        worker = answer.worker
        self._signed_on = answer
        log.info("link_opened", worker=worker.name, tenant=str(worker.tenant_id), client=self._peer())
        await self._say(answer.welcome)
        self._start("listen", self._listen(answer))
        self._start("watch", self._watch(answer))

    async def _limit_handshake(self) -> None:
        await asyncio.sleep(HANDSHAKE_SECONDS)
        if self._signed_on is None:
            log.warning("link_fault", fault="no sign-on in time", worker=None, client=self._peer())
            await self._close(CLOSE_HANDSHAKE_TIMEOUT)

    # ------------------------------------------------------------ questions

    async def _accept_frame(self, worker: LinkedWorker, frame: FromWorker) -> None:
        match frame:
            case OpenSession() | RequestUpload() | RequestVerifier() | RequestApproval() | ReserveBudget():
                await self._requests.acquire()
                self._start("answer", self._answer(worker, frame), then=self._requests.release)
            case AppendRecords():
                await self._batches.acquire()
                self._start("append", self._append(worker, frame), then=self._batches.release)
            case CloseSession(session_id=session_id, reason=reason):
                now = timezone.now()
                note = _in_scope(worker, note_closed)
                await _in_thread(note, _uuid(session_id), worker_id=worker.id, reason=reason, now=now)
                await _in_thread(withdraw_of_session, worker, _uuid(session_id), now=now)
                self._recorded.set()
            case WithdrawApproval():
                await _in_thread(withdraw_approval, worker, frame, now=timezone.now())
            case ApprovalPreview():
                await _in_thread(keep_preview, worker, frame, now=timezone.now())
            case Heartbeat(sessions=sessions, journal_bytes=journal_bytes):
                reported = {"reported_sessions": sessions, "reported_journal_bytes": journal_bytes}
                await _in_thread(_in_scope(worker, note_sign_of_life), worker.id, now=timezone.now(), **reported)
            case Enrol() | Authenticate():
                raise PeerFault("a second sign-on")

    async def _answer(self, worker: LinkedWorker, frame: Question) -> None:
        answer: FromControlPlane
        try:
            if self._is_dismissed:
                answer = _refused_as_dismissed(frame.request_id)
            elif isinstance(frame, OpenSession):
                answer = await _in_thread(open_session, worker, frame, now=timezone.now())
            elif isinstance(frame, RequestVerifier):
                answer = await _in_thread(offer_verifier, worker, frame)
            elif isinstance(frame, ReserveBudget):
                answer = await _in_thread(reserve_budget, worker, frame, now=timezone.now())
            elif isinstance(frame, RequestApproval):
                answer = await _in_thread(request_approval, worker, frame, now=timezone.now())
            else:
                answer = await _in_thread(offer_upload, worker, frame)
        except PeerFault as error:
            await self._fault(error.fault)
            return
        except Exception:  # whatever it is, the agent is refused and the link goes on
            log.exception("request_failed", worker=worker.name, request=type(frame).__name__)
            answer = Refused(
                request_id=frame.request_id,
                code=RefusalCode.UNAVAILABLE,
                reason="the control plane could not answer",
                help="Try again in a minute.",
            )
        await self._say(answer)
        if isinstance(answer, ApprovalTicket) and answer.state is ApprovalState.PENDING:
            self._held.add(UUID(answer.approval_id))  # after the ticket, so that no decision overtakes it
            self._woken.set()

    async def _append(self, worker: LinkedWorker, frame: AppendRecords) -> None:
        async with self._batch_order:  # a lock wakes its waiters in their order
            try:
                seq = await _in_thread(append_records, worker, frame)
            except PeerFault as error:
                await self._fault(error.fault)
                return
            except Exception:  # not acknowledged, so the worker sends it again on its next link
                log.exception("append_failed", worker=worker.name)
                await self._close(CLOSE_ERROR)
                return
            self._recorded.set()
            await self._say(Ack(request_id=frame.request_id, journal_id=frame.journal_id, seq=seq))

    # ------------------------------------------------------------ pushes

    async def _listen(self, signed_on: SignedOn) -> None:
        """Have wake-ups start a round of `_watch`, and start one whenever listening begins."""
        layer, group = get_channel_layer(), worker_group(signed_on.worker.id)
        while not self._is_closing:
            try:
                channel = await layer.new_channel()
                try:
                    await layer.group_add(group, channel)
                    self._woken.set()
                    while not self._is_closing:
                        await layer.receive(channel)
                        self._woken.set()
                finally:
                    await layer.group_discard(group, channel)
            except (RedisError, OSError) as error:
                log.warning("wake_ups_interrupted", worker=signed_on.worker.name, error=type(error).__name__)
                await asyncio.sleep(POLL_SECONDS)

    async def _watch(self, signed_on: SignedOn) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closing:
            if loop.time() - self._heard_at > SILENT_AFTER_SECONDS:
                log.warning("link_fault", fault="silent", worker=signed_on.worker.name, client=self._peer())
                await self._close(CLOSE_SILENT)
                return
            try:
                await self._enforce_standing(signed_on)
            except Exception:  # the database may be back at the next round
                log.exception("watch_failed", worker=signed_on.worker.name)
            try:
                await asyncio.wait_for(self._woken.wait(), self._seconds_to_next_round())
            except TimeoutError:
                continue
            self._woken.clear()

    def _seconds_to_next_round(self) -> float:
        """Until the next poll, or until the first of what is held lapses."""
        if self._lapses_at is None:
            return POLL_SECONDS
        to_lapse = (self._lapses_at - timezone.now()).total_seconds()
        return max(LEAST_ROUND_SECONDS, min(POLL_SECONDS, to_lapse))

    async def _enforce_standing(self, signed_on: SignedOn) -> None:
        worker, key = signed_on.worker, signed_on.public_key
        standing = await _in_thread(_in_scope(worker, standing_of), worker.id, public_key=key)
        if not standing.is_welcome:
            await self._dismiss(worker)
            return
        fresh = {
            session_id: reason for session_id, reason in standing.to_end.items() if session_id not in self._revoked
        }
        self._revoked = set(standing.to_end)
        for reason in set(fresh.values()):
            session_ids = tuple(session_id for session_id, why in fresh.items() if why == reason)
            await self._say(Revoke(session_ids=session_ids, reason=reason))
        if standing.policy is not None and standing.policy.version != self._policy_version:
            self._policy_version = standing.policy.version
            await self._say(PolicyChanged(policy=standing.policy))
        await self._push_approvals(worker)

    async def _dismiss(self, worker: LinkedWorker) -> None:
        """Have all sessions end, take the records of it for `DISMISSED_SECONDS`, and close."""
        log.warning("link_fault", fault="no longer welcome", worker=worker.name, client=self._peer())
        self._is_dismissed = True
        await self._say(Revoke(session_ids=(), reason="this worker was withdrawn"))
        with suppress(TimeoutError):
            async with asyncio.timeout(DISMISSED_SECONDS):
                while await _in_thread(_in_scope(worker, has_open_sessions), worker.id):
                    await self._recorded.wait()
                    self._recorded.clear()
        await self._close(CLOSE_REFUSED)

    async def _push_approvals(self, worker: LinkedWorker) -> None:
        held = frozenset(self._held)
        news = await _in_thread(news_of, worker, held, now=timezone.now())
        self._held = (self._held - held) | news.held  # others may have come meanwhile
        self._lapses_at = news.next_at
        for decided in news.decided:
            await self._say(decided)
        for asked, preview in news.previews.items():
            if asked not in self._previews_asked:
                await self._say(preview)
        self._previews_asked = set(news.previews)

    # ------------------------------------------------------------ the socket

    def _start(
        self, name: str, coroutine: Coroutine[Any, Any, None], *, then: Callable[[], None] | None = None
    ) -> None:
        task = spawn(f"link-{name}", coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if then is not None:
            task.add_done_callback(lambda _: then())

    async def _say(self, frame: FromControlPlane) -> None:
        if not self._is_closing:
            await self.send(bytes_data=encode(frame))

    async def _fault(self, fault: str) -> None:
        if not self._is_closing:
            worker = self._signed_on.worker.name if self._signed_on else None
            log.warning("link_fault", fault=fault, worker=worker, client=self._peer())
            await self._close(CLOSE_FAULT)

    async def _close(self, code: int) -> None:
        if not self._is_closing:
            self._is_closing = True
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
