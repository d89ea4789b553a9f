"""A gate that runs in a thread of the test, between real clients and a real target.

The journal is real. The control plane is scripted: what it would answer is what these tests are not about.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trustme
import uvloop
from scramp import ScramMechanism

from policies.engine import Effect, Operation, Policy, Principal, Rule
from proxyworker.contract import (
    ApprovalDecided,
    ApprovalPreview,
    ApprovalState,
    ApprovalTicket,
    BudgetLease,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Record,
    RefusalCode,
    Refused,
    Secret,
    SessionClosed,
    SessionGrant,
    SessionLimits,
    SessionOpened,
    TargetEndpoint,
    TlsFacts,
    TlsMode,
    UpstreamCredential,
    ValuesCounted,
)
from proxyworker.errors import ApprovalRefused, LinkUnavailable, SessionRefused
from proxyworker.gate import LiveSessions, Services
from proxyworker.gate.approve import Approvals
from proxyworker.gate.content import ContentPress
from proxyworker.gate.meter import Budgets
from proxyworker.journal import ContentPiece, Journal
from proxyworker.postgres import serve
from tests.proxyworker.budgets import CountedBudgets

if TYPE_CHECKING:
    from tests.plugin.embedded import TargetPostgres

TOKEN = "ng_good_token"
#: Where a person decides on an approval; its id follows.
URL = "https://narrowgate.example/approvals/"
#: How long a test waits for what the gate does by itself, such as closing a session.
PATIENCE_SECONDS = 20.0

#: What can't be understood, and every hazard, included.
EVERYTHING = Rule(name="all", effect=Effect.ALLOW, agents=("*",), targets=("*",), operations=("*",), hazards=("*",))

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Record)


class RememberingJournal(Journal):
    """A journal that also keeps in memory what was appended."""

    def append(self, *records: Record, content: Sequence[ContentPiece] = ()) -> int:
        position = super().append(*records, content=content)
        self.records.extend(records)
        self.content.extend(content)
        return position

    @cached_property
    def records(self) -> list[Record]:
        """Every record since the start."""
        return []

    @cached_property
    def content(self) -> list[ContentPiece]:
        """Every content piece since the start."""
        return []


@dataclass(frozen=True)
class AskedApproval:
    """A request for an approval, as it was asked."""

    intent: OperationIntent
    operation: Operation
    digest: bytes


@dataclass
class ScriptedControlPlane:
    """Grants one token one target."""

    endpoint: TargetEndpoint
    credential: UpstreamCredential
    limits: SessionLimits = field(default_factory=SessionLimits)
    rules: tuple[Rule, ...] = (EVERYTHING,)
    #: Labels by the full names of columns.
    labelled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lifetime_seconds: float = 3600.0
    #: Database logins by their ids, each with its password and salt; of any other the verifier is nobody's.
    logins: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    closed: list[tuple[str, str]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    #: Requests for approvals by their ids, each as often as it was asked; those that are granted when asked again.
    approvals: dict[str, list[AskedApproval]] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    standing_grants: set[bytes] = field(default_factory=set)
    withdrawn: dict[str, str] = field(default_factory=dict)
    previews: list[ApprovalPreview] = field(default_factory=list)
    #: What counts the limits.
    budgets: CountedBudgets = field(default_factory=CountedBudgets)
    has_link: bool = True
    refuses_approvals: bool = False

    async def open_session(
        self, *, protocol: str, target: str, credential: Secret, client_address: str, client_name: str, tls: TlsFacts
    ) -> SessionGrant:
        self.asked.append({"protocol": protocol, "target": target, "client_name": client_name, "tls": tls})
        if credential.value != TOKEN and not self._is_login(credential.value):
            raise SessionRefused(
                Refused(0, RefusalCode.BAD_CREDENTIAL, "the token is not known or has expired", "Get a new token.")
            )
        if target != self.endpoint.name:
            raise SessionRefused(
                Refused(0, RefusalCode.NO_SUCH_TARGET, f"no target {target} for you", "Check the name.")
            )
        return SessionGrant(
            request_id=1,
            session_id=str(uuid.uuid4()),
            tenant_id=str(uuid.UUID(int=1)),
            principal=Principal(id=str(uuid.UUID(int=2)), name="reporter", authenticated_by="issued_token"),
            target=self.endpoint,
            credential=self.credential,
            policy=Policy(version="test@1", rules=self.rules, labelled={self.endpoint.name: self.labelled}),
            limits=self.limits,
            expires_at=time.time() + self.lifetime_seconds,
        )

    async def request_approval(
        self, intent: OperationIntent, *, operation: Operation, operation_sha256: bytes
    ) -> ApprovalTicket:
        if not self.has_link:
            raise LinkUnavailable("there is no link")
        if self.refuses_approvals:
            raise ApprovalRefused(Refused(0, RefusalCode.DENIED, "there is no flow of that name"))
        approval_id = f"approval-{intent.session_id}-{intent.op}"
        self.approvals.setdefault(approval_id, []).append(AskedApproval(intent, operation, operation_sha256))
        state = ApprovalState.PENDING
        if approval_id in self.granted or operation_sha256 in self.standing_grants:
            self.standing_grants.discard(operation_sha256)
            state = ApprovalState.GRANTED
        return ApprovalTicket(1, approval_id, URL + approval_id, state, "", time.time() + 600)

    async def reserve_budget(self, **asked: Any) -> BudgetLease:
        if not self.has_link:
            raise LinkUnavailable("there is no link")
        return self.budgets.reserve(**asked)

    async def count_values(self, **asked: Any) -> ValuesCounted:
        if not self.has_link:
            raise LinkUnavailable("there is no link")
        return self.budgets.count(**asked)

    def withdraw_approval(self, approval_id: str, reason: str) -> bool:
        if self.has_link:
            self.withdrawn[approval_id] = reason
        return self.has_link

    def approval_preview(self, preview: ApprovalPreview) -> None:
        self.previews.append(preview)

    async def verifier_of(self, login: str, *, client_address: str) -> Secret:
        self.asked.append({"login": login, "client_host": client_address.rpartition(":")[0]})
        return Secret(verifier_text(*self._login(login)))

    def _login(self, login: str) -> tuple[str, bytes]:
        return self.logins.get(login, ("nobody's", hashlib.sha256(login.encode()).digest()[:16]))

    def _is_login(self, credential: str) -> bool:
        """As the real one does: the key's digest is the stored key."""
        kind, _, rest = credential.partition("_")
        login, _, key = rest.partition("_")
        if kind != "ngd" or login not in self.logins:
            return False
        stored = verifier_text(*self._login(login)).split("$")[2].partition(":")[0]
        return hashlib.sha256(bytes.fromhex(key)).digest() == base64.b64decode(stored)

    def session_closed(self, session_id: str, reason: str) -> None:
        self.closed.append((session_id, reason))


def verifier_text(password: str, salt: bytes) -> str:
    """What PostgreSQL would keep of the password."""
    _, stored, server, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(
        password, iteration_count=4096, salt=salt
    )
    texts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{texts[0]}${texts[1]}:{texts[2]}"


class RunningGate:
    """A listener, its journal and its loop, in a thread."""

    def __init__(
        self, folder: Path, control: ScriptedControlPlane, *, remember: bool = True, listen_port: int = 0
    ) -> None:
        self._listen_port = listen_port
        self._journal_class = RememberingJournal if remember else Journal
        authority = trustme.CA()
        self.ca_file = folder / "gate-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.configure_cert(self._tls)
        self.certificate = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        self.folder = folder
        self.control = control
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate")
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.services: Services
        self.approvals: Approvals
        self.journal: RememberingJournal

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE_SECONDS)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self._failure = error
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        journal = self._journal_class.open(
            self.folder / "journal", worker="test", bound_bytes=1 << 36, clock=time.time, loop=self._loop
        )
        if isinstance(journal, RememberingJournal):
            self.journal = journal
        live = LiveSessions(time.time)
        press = ContentPress()
        self.approvals = Approvals(self.control, time.time)
        self.services = Services(
            link=self.control,
            journal=journal,
            live=live,
            approvals=self.approvals,
            budgets=Budgets(self.control, time.time),
            press=press,
            clock=time.time,
        )
        listener = await serve(
            listen=("127.0.0.1", self._listen_port), tls=self._tls, certificate=self.certificate, services=self.services
        )
        self.port = listener.address[1]
        self._started.set()
        await self._stop.wait()
        await listener.close()
        live.end([], "the test is over")
        await live.wait_empty()
        press.close()
        await journal.close()

    # ------------------------------------------------------------ for tests

    def dsn(self, **options: str) -> str:
        """A libpq connection string through the gate."""
        settings = {
            "host": "localhost",
            "port": str(self.port),
            "user": "agent",
            "dbname": self.control.endpoint.name,
            "password": TOKEN,
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca_file),
            **options,
        }
        return " ".join(f"{name}={value}" for name, value in settings.items())

    def call(self, function: Callable[[], T]) -> T:
        """Run the function on the gate's loop and return what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_SECONDS)

    def held(self, count: int = 1) -> list[str]:
        """The ids of the approvals asked for, once there are that many."""
        self.wait_for(lambda: len(self.control.approvals) >= count)
        return list(self.control.approvals)

    def decide(self, approval_id: str, state: ApprovalState, reason: str = "") -> None:
        """As the control plane pushes it."""
        self.call(lambda: self.approvals.decided(ApprovalDecided(approval_id, state, reason)))

    def wait_closed(self, count: int) -> None:
        """Return when that many sessions are closed on record."""
        self.wait_for(lambda: len(self.of(SessionClosed)) >= count)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; fail when it does not come to hold."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it never came to be"
            threading.Event().wait(0.01)

    def of(self, kind: type[RecordT]) -> list[RecordT]:
        """The records of this kind so far."""
        return [record for record in self.journal.records if isinstance(record, kind)]

    @property
    def operations(self) -> list[tuple[OperationIntent, OperationOutcome | None]]:
        """Each intent with its outcome."""
        outcomes = {(record.session_id, record.op): record for record in self.of(OperationOutcome)}
        return [(intent, outcomes.get((intent.session_id, intent.op))) for intent in self.of(OperationIntent)]

    def outcome_of(self, text: str) -> OperationOutcome:
        """The outcome of the one operation with this text."""
        (found,) = [outcome for intent, outcome in self.operations if intent.text == text]
        assert found is not None
        return found

    @property
    def sessions(self) -> list[SessionOpened]:
        """Every session so far."""
        return self.of(SessionOpened)


def endpoint_of(target: TargetPostgres, **changes: Any) -> TargetEndpoint:
    """The target as the control plane would describe it."""
    settings: dict[str, Any] = {
        "id": str(uuid.UUID(int=3)),
        "name": "shop",
        "protocol": "postgres",
        "host": target.host,
        "port": target.port,
        "database": target.database,
        "tls_mode": TlsMode.VERIFY_FULL,
        "ca_pem": target.ca_file.read_text(),
        **changes,
    }
    return TargetEndpoint(**settings)


def credential_of(target: TargetPostgres, role: str = "scram") -> UpstreamCredential:
    """What signs in as this role."""
    return UpstreamCredential(username=role, secret=Secret(target.password))


__all__ = ["TOKEN", "OutcomeStatus", "RunningGate", "ScriptedControlPlane", "credential_of", "endpoint_of"]
