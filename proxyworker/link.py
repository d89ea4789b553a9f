"""The one outbound WebSocket to the control plane: signs the worker on, keeps it signed on, asks its questions."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, TypeVar

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from policies.engine import Limit, Operation, Policy
from proxyworker.contract import (
    LINK_VERSION,
    MAX_FRAME_BYTES,
    Ack,
    Amounts,
    AppendRecords,
    ApprovalDecided,
    ApprovalPreview,
    ApprovalState,
    ApprovalTicket,
    AskPreview,
    BudgetLease,
    Challenge,
    CloseSession,
    ContractError,
    CountValues,
    FromControlPlane,
    FromWorker,
    Heartbeat,
    LoginVerifier,
    OpenSession,
    OperationIntent,
    PolicyChanged,
    Refused,
    RequestApproval,
    RequestUpload,
    RequestVerifier,
    ReserveBudget,
    Revoke,
    Secret,
    SessionGrant,
    TlsFacts,
    UploadTicket,
    ValuesCounted,
    Welcome,
    WithdrawApproval,
    decode_from_control_plane,
    encode,
)
from proxyworker.errors import (
    ApprovalRefused,
    BudgetRefused,
    IdentityError,
    LinkError,
    LinkUnavailable,
    SessionRefused,
    UploadRefused,
)
from proxyworker.identity import Identity
from proxyworker.net.tasks import spawn

__all__ = ["Link", "LinkUnavailable", "SessionRefused", "UploadRefused"]

#: Connecting, and then signing on: a healthy control plane takes milliseconds.
CONNECT_SECONDS: Final = 10.0
SIGN_ON_SECONDS: Final = 10.0
#: An agent's driver gives up after some ten seconds.
OPEN_SESSION_SECONDS: Final = 10.0
#: A batch may wait behind others in the control plane's database.
APPEND_SECONDS: Final = 60.0
UPLOAD_TICKET_SECONDS: Final = 30.0
#: A request for an approval may have to wait behind fifty others.
APPROVAL_SECONDS: Final = 20.0
#: Questions about sessions at once; more wait, within their own time.
MAX_OPENING: Final = 64
#: A dead peer is noticed after at most the sum of both.
PING_INTERVAL_SECONDS: Final = 20.0
PING_TIMEOUT_SECONDS: Final = 20.0
CLOSE_SECONDS: Final = 1.0
#: Full jitter: after the n-th failure, wait between 0 and the lesser of these two.
FIRST_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)
Answer = SessionGrant | LoginVerifier | Ack | UploadTicket | ApprovalTicket | BudgetLease | ValuesCounted | Refused
F = TypeVar("F", bound=FromControlPlane)


class Link:
    """Lives on one loop; `run` is its life. The callbacks are set before."""

    def __init__(self, url: str, *, identity: Identity, tls: ssl.SSLContext | None) -> None:
        #: Called with the session ids to end (empty: all) and the reason.
        self.on_revoke: Callable[[Sequence[str], str], None] = lambda _ids, _reason: None
        #: Called with what running sessions are to be decided by.
        self.on_policy: Callable[[Policy], None] = lambda _policy: None
        #: Called when a request for approval that was pending is not any more.
        self.on_approval_decided: Callable[[ApprovalDecided], None] = lambda _decided: None
        #: Called when somebody wants to know what an operation that waits for approval would touch.
        self.on_preview_asked: Callable[[AskPreview], None] = lambda _asked: None
        #: Called at every sign-on, once questions may be asked.
        self.on_up: Callable[[], None] = lambda: None
        #: Called at every sign-on, before `connected` is true.
        self.on_welcome: Callable[[Welcome], None] = lambda _welcome: None
        #: Asked for what to tell at each heartbeat.
        self.vitals: Callable[[], Heartbeat] = lambda: Heartbeat(sessions=0, journal_bytes=0)
        self._url = url
        self._identity = identity
        self._tls = tls
        self._socket: ClientConnection | None = None
        self._ids = count(1)
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._opening = asyncio.Semaphore(MAX_OPENING)

    @property
    def connected(self) -> bool:
        """The worker is signed on now."""
        return self._socket is not None

    async def run(self) -> None:
        """Connect, sign on, serve; and again with exponential back-off and full jitter, until cancelled."""
        failures = 0
        while True:
            try:
                await self._serve()
                failures = 0
            except (OSError, WebSocketException, TimeoutError, ContractError, IdentityError, LinkError) as error:
                _log.warning("link_down", error=type(error).__name__, problem=str(error))
                failures += 1
            ceiling = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter, not a secret

    async def open_session(
        self, *, protocol: str, target: str, credential: Secret, client_address: str, client_name: str, tls: TlsFacts
    ) -> SessionGrant:
        """Have the control plane authenticate and authorise a connection. Waits 10 s at most.

        Raises `SessionRefused` or `LinkUnavailable`.
        """

        def question(request_id: int) -> OpenSession:
            return OpenSession(
                request_id=request_id,
                protocol=protocol,
                target=target,
                credential=credential,
                client_address=client_address,
                client_name=client_name,
                tls=tls,
            )

        try:
            async with asyncio.timeout(OPEN_SESSION_SECONDS), self._opening:
                answer = await self._ask(question)
        except TimeoutError as error:
            raise LinkUnavailable("the control plane did not answer in time") from error
        if isinstance(answer, Refused):
            raise SessionRefused(answer)
        return _expect(SessionGrant, answer)

    async def verifier_of(self, login: str, *, client_address: str) -> Secret:
        """The SCRAM verifier of a database login in PostgreSQL's form, or one that nobody satisfies. Waits 10 s.

        Raises `SessionRefused` or `LinkUnavailable`.
        """

        def question(request_id: int) -> RequestVerifier:
            return RequestVerifier(request_id=request_id, login=login, client_address=client_address)

        try:
            async with asyncio.timeout(OPEN_SESSION_SECONDS), self._opening:
                answer = await self._ask(question)
        except TimeoutError as error:
            raise LinkUnavailable("the control plane did not answer in time") from error
        if isinstance(answer, Refused):
            raise SessionRefused(answer)
        return _expect(LoginVerifier, answer).verifier

    def session_closed(self, session_id: str, reason: str) -> None:
        """Tell the control plane that the session has ended; dropped without a link, for the journal says it too."""
        self._tell(CloseSession(session_id=session_id, reason=reason))

    async def append_records(
        self, *, journal_id: str, first_seq: int, chain_before: bytes, chain_after: bytes, records: list[bytes]
    ) -> Ack:
        """Hand over a batch of the journal. Raises `LinkUnavailable`."""

        def question(request_id: int) -> AppendRecords:
            return AppendRecords(
                request_id=request_id,
                journal_id=journal_id,
                first_seq=first_seq,
                chain_before=chain_before,
                chain_after=chain_after,
                records=records,
            )

        try:
            async with asyncio.timeout(APPEND_SECONDS):
                return _expect(Ack, await self._ask(question))
        except TimeoutError as error:
            raise LinkUnavailable("a batch was not acknowledged in time") from error

    async def request_upload(self, *, session_id: str, index: int, sha256: bytes, size_bytes: int) -> UploadTicket:
        """Ask where a content segment may go. Raises `UploadRefused` or `LinkUnavailable`."""

        def question(request_id: int) -> RequestUpload:
            return RequestUpload(
                request_id=request_id, session_id=session_id, index=index, sha256=sha256, size_bytes=size_bytes
            )

        try:
            async with asyncio.timeout(UPLOAD_TICKET_SECONDS):
                answer = await self._ask(question)
        except TimeoutError as error:
            raise LinkUnavailable("no upload ticket in time") from error
        if isinstance(answer, Refused):
            raise UploadRefused(answer)
        return _expect(UploadTicket, answer)

    async def request_approval(
        self, intent: OperationIntent, *, operation: Operation, operation_sha256: bytes
    ) -> ApprovalTicket:
        """May this operation pass? Waits 20 s at most. Raises `ApprovalRefused` or `LinkUnavailable`."""

        def question(request_id: int) -> RequestApproval:
            return RequestApproval(
                request_id=request_id,
                session_id=intent.session_id,
                op=intent.op,
                kind=intent.kind,
                text=intent.text,
                text_bytes=intent.text_bytes,
                operation_sha256=operation_sha256,
                parameters=intent.parameters,
                operation=operation,
                decision=intent.decision,
            )

        try:
            async with asyncio.timeout(APPROVAL_SECONDS):
                answer = await self._ask(question)
        except TimeoutError as error:
            raise LinkUnavailable("a request for an approval was not answered in time") from error
        if isinstance(answer, Refused):
            raise ApprovalRefused(answer)
        return _expect(ApprovalTicket, answer)

    async def reserve_budget(
        self,
        *,
        session_id: str,
        rule: str,
        limit: Limit,
        lease_id: str,
        period_start: float,
        used: Amounts,
        wanted: Amounts,
    ) -> BudgetLease:
        """Lease a part of a budget; the caller bounds the wait. Raises `BudgetRefused` or `LinkUnavailable`."""

        def question(request_id: int) -> ReserveBudget:
            return ReserveBudget(
                request_id=request_id,
                session_id=session_id,
                rule=rule,
                limit=limit,
                lease_id=lease_id,
                period_start=period_start,
                used=used,
                wanted=wanted,
            )

        answer = await self._ask(question)
        if isinstance(answer, Refused):
            raise BudgetRefused(answer)
        return _expect(BudgetLease, answer)

    async def count_values(self, *, session_id: str, rule: str, limit: Limit, values: bytes) -> ValuesCounted:
        """Count values that are about to be shown; the caller bounds the wait.

        Raises `BudgetRefused` or `LinkUnavailable`.
        """

        def question(request_id: int) -> CountValues:
            return CountValues(request_id=request_id, session_id=session_id, rule=rule, limit=limit, values=values)

        answer = await self._ask(question)
        if isinstance(answer, Refused):
            raise BudgetRefused(answer)
        return _expect(ValuesCounted, answer)

    def withdraw_approval(self, approval_id: str, reason: str) -> bool:
        """Say that nobody waits for this approval any more. False: there is no link to say it over."""
        self._tell(WithdrawApproval(approval_id=approval_id, reason=reason))
        return self.connected

    def approval_preview(self, preview: ApprovalPreview) -> None:
        """Say what an operation would touch; dropped without a link."""
        self._tell(preview)

    async def _serve(self) -> None:
        """One connection, from its beginning to its end."""
        async with connect(
            self._url,
            ssl=self._tls,
            proxy=None,
            compression=None,  # batches are small beside what content upload compresses, and CPU is the data path's
            user_agent_header=None,
            open_timeout=CONNECT_SECONDS,
            ping_interval=PING_INTERVAL_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MAX_FRAME_BYTES,
        ) as socket:
            async with asyncio.timeout(SIGN_ON_SECONDS):
                welcome = await self._sign_on(socket)
            self.on_welcome(welcome)
            self._socket = socket
            self.on_up()
            heartbeat = spawn("link-heartbeat", self._beat(socket, welcome.heartbeat_seconds))
            try:
                async for data in socket:
                    self._take(_decode(data))
            finally:
                self._socket = None
                heartbeat.cancel()
                for answer in self._pending.values():
                    if not answer.done():
                        answer.set_exception(LinkUnavailable("the link was lost"))
        _log.warning("link_down", error="closed", problem=f"close code {socket.close_code}")

    async def _sign_on(self, socket: ClientConnection) -> Welcome:
        challenge = _expect(Challenge, _decode(await socket.recv()))
        if challenge.link_version != LINK_VERSION:
            raise LinkError(f"the control plane speaks link version {challenge.link_version}, this is {LINK_VERSION}")
        await socket.send(encode(self._identity.answer(challenge)))
        answer = _decode(await socket.recv())
        if isinstance(answer, Refused):
            raise LinkError(f"the control plane refused this worker: {answer.code.value}: {answer.reason}")
        welcome = _expect(Welcome, answer)
        self._identity.enrolled(welcome.worker_id)
        _log.info("link_up", worker=welcome.worker_id, tenant=welcome.tenant_id)
        return welcome

    async def _ask(self, question: Callable[[int], FromWorker]) -> Answer:
        """Raises `LinkUnavailable`, also when the link is lost before the answer."""
        socket = self._socket
        if socket is None:
            raise LinkUnavailable("there is no link to the control plane")
        request_id = next(self._ids)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        try:
            await socket.send(encode(question(request_id)))
            return await answer
        except ConnectionClosed as error:
            raise LinkUnavailable("the link was lost") from error
        finally:
            del self._pending[request_id]

    def _take(self, frame: FromControlPlane) -> None:
        if isinstance(frame, Revoke):
            self.on_revoke(frame.session_ids, frame.reason)
            return
        if isinstance(frame, PolicyChanged):
            self.on_policy(frame.policy)
            return
        if isinstance(frame, ApprovalDecided):
            self.on_approval_decided(frame)
            return
        if isinstance(frame, AskPreview):
            self.on_preview_asked(frame)
            return
        if isinstance(frame, Challenge | Welcome):
            raise LinkError("the control plane signed on twice")
        answer = self._pending.get(frame.request_id)
        if answer is not None and not answer.done():
            answer.set_result(frame)
        elif isinstance(frame, SessionGrant):  # nobody waits for it any more, but it is open over there
            self.session_closed(frame.session_id, "the agent did not wait for the grant")
        elif isinstance(frame, ApprovalTicket) and frame.state is ApprovalState.PENDING:  # likewise
            self.withdraw_approval(frame.approval_id, "the agent did not wait for the answer")

    def _tell(self, frame: FromWorker) -> None:
        if self._socket is not None:
            spawn("link-tell", _send(self._socket, frame))

    async def _beat(self, socket: ClientConnection, interval_seconds: float) -> None:
        while True:
            await _send(socket, self.vitals())
            await asyncio.sleep(interval_seconds)


async def _send(socket: ClientConnection, frame: FromWorker) -> None:
    try:
        await socket.send(encode(frame))
    except ConnectionClosed:
        _log.debug("link_frame_dropped", frame=type(frame).__name__)


def _decode(data: str | bytes) -> FromControlPlane:
    """Raises `ContractError`."""
    if isinstance(data, str):
        raise ContractError("a text frame")
    return decode_from_control_plane(data)


def _expect(kind: type[F], frame: FromControlPlane) -> F:
    """Raises `LinkError` for anything else."""
    if not isinstance(frame, kind):
        raise LinkError(f"the control plane answered with {type(frame).__name__} where {kind.__name__} was due")
    return frame
