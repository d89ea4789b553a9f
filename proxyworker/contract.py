"""What passes between a worker and the control plane, and what is written to the journal. The one definition of both.

Everything is a msgspec struct in msgpack, tagged by its class name under "t". `encode` and `decode_…` are the only way
in and out. A frame that does not decode is a broken peer: the link is closed.

    worker                                   control plane
      <- Challenge                             on connecting
      -> Enrol | Authenticate                  once
      <- Welcome | Refused
      -> OpenSession                        <- SessionGrant | Refused
      -> RequestVerifier                    <- LoginVerifier | Refused
      -> AppendRecords                      <- Ack
      -> RequestUpload                      <- UploadTicket | Refused
      -> RequestApproval                    <- ApprovalTicket | Refused, later ApprovalDecided
      -> ReserveBudget                      <- BudgetLease | Refused
      -> CountValues                        <- ValuesCounted | Refused
      -> WithdrawApproval, ApprovalPreview     (no answer)
      -> CloseSession, Heartbeat               (no answer)
      <- Revoke, PolicyChanged, AskPreview     (any time)

An answer carries the `request_id` of its question. Times are seconds since the epoch as float, durations are
microseconds as int, sizes are bytes; ids are UUIDs in text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from policies.engine import Decision, Limit, Operation, Policy, Principal

#: Both ends must speak the same version; the control plane refuses another with `RefusalCode.VERSION`.
LINK_VERSION: Final = 1
#: Version of the journal's frames and of the records in them.
JOURNAL_VERSION: Final = 1
#: Version of a content segment's file form.
SEGMENT_VERSION: Final = 1

#: A frame on the link. A batch of records is cut to `MAX_BATCH_BYTES`; the rest is head room for one record.
MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_BATCH_RECORDS: Final = 5_000
#: A record is small: long statements and parameters are cut here and kept whole in the session's content.
MAX_RECORDED_TEXT_BYTES: Final = 64 * 1024
MAX_RECORDED_PARAMETER_BYTES: Final = 8 * 1024
#: All parameters of one operation together; a driver may bind 65,535 of them.
MAX_RECORDED_PARAMETERS_BYTES: Final = 256 * 1024
#: Longest credential an agent may present: an OIDC token with many groups is 4 to 16 KB.
MAX_CREDENTIAL_BYTES: Final = 32 * 1024
#: A content segment is uploaded whole; small enough to retry, large enough to compress.
MAX_SEGMENT_BYTES: Final = 16 * 1024 * 1024

#: What a signature of a worker begins with: see `signed_hello`.
LINK_SIGNATURE_CONTEXT: Final = b"narrowgate link v1\x00"
#: Processes of one worker: each has a link, and its files; no machine that runs a gate has more processors to offer.
MAX_PROCESSES: Final = 64


class Secret(msgspec.Struct, frozen=True):
    """A text that must not be shown: no repr, no str, no format gives it away."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:
        yield "…"


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="t", tag=True):
    """Base of frames and records."""


# ---------------------------------------------------------------- signing on


class Challenge(Struct, frozen=True):
    """The control plane's first word. `nonce` is 32 random bytes, used once."""

    link_version: int
    nonce: bytes


class Enrol(Struct, frozen=True, omit_defaults=True):
    """A new worker shows its single-use join token and the Ed25519 key that it made. `signature`: 64 bytes.

    `process`: the number, from 0 on, of the worker's process whose link this is; `processes`: how many it runs.
    """

    link_version: int
    join_token: Secret
    name: str
    public_key: bytes
    signature: bytes
    process: int = 0
    processes: int = 1


class Authenticate(Struct, frozen=True, omit_defaults=True):
    """A known worker signs the challenge. `process` and `processes` as in `Enrol`."""

    link_version: int
    worker_id: str
    signature: bytes
    process: int = 0
    processes: int = 1


def signed_hello(nonce: bytes, public_key: bytes, *, process: int, processes: int) -> bytes:
    """What a worker signs to enrol or to authenticate: the context, the challenge's nonce, its raw public key.

    And, if it runs several processes, the process's number and how many there are, two bytes each: a link of one can't
    be made one of another.
    """
    numbers = b"" if processes == 1 else process.to_bytes(2, "big") + processes.to_bytes(2, "big")
    return LINK_SIGNATURE_CONTEXT + nonce + public_key + numbers


class Welcome(Struct, frozen=True):
    """Signed on. `acknowledged`: for each journal of this worker, the last record that the control plane holds."""

    worker_id: str
    tenant_id: str
    heartbeat_seconds: float
    acknowledged: dict[str, int]


# ---------------------------------------------------------------- sessions


class TlsFacts(Struct, frozen=True):
    """What is known of the agent's TLS. Empty when there is none."""

    version: str = ""
    cipher: str = ""


class OpenSession(Struct, frozen=True):
    """Authenticate this credential and authorise this connection. `client_address` is "host:port"."""

    request_id: int
    protocol: str
    target: str
    credential: Secret
    client_address: str
    client_name: str
    tls: TlsFacts


class TlsMode(StrEnum):
    """How a target's certificate is checked. The names are libpq's."""

    DISABLE = "disable"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TargetEndpoint(Struct, frozen=True):
    """Where the target is and whom to trust there. `ca_pem` empty: the system's roots."""

    id: str
    name: str
    protocol: str
    host: str
    port: int
    database: str
    tls_mode: TlsMode
    ca_pem: str = ""
    environment: str = ""
    labels: dict[str, str] = {}


class UpstreamCredential(Struct, frozen=True):
    """What the target wants. In memory only, never in a record."""

    username: str
    secret: Secret


class SessionLimits(Struct, frozen=True):
    """Bounds of one session. A statement is one message from the agent."""

    max_statement_bytes: int = 16 * 1024 * 1024
    max_session_seconds: int = 12 * 3600
    idle_seconds: int = 3600


class SessionGrant(Struct, frozen=True):
    """All that the data path needs. Good until `expires_at`."""

    request_id: int
    session_id: str
    tenant_id: str
    principal: Principal
    target: TargetEndpoint
    credential: UpstreamCredential
    policy: Policy
    limits: SessionLimits
    expires_at: float


class RefusalCode(StrEnum):
    """Why the control plane said no. The gate maps each to its protocol's error."""

    VERSION = "version"
    BAD_JOIN_TOKEN = "bad_join_token"  # noqa: S105
    BAD_SIGNATURE = "bad_signature"
    WORKER_DISABLED = "worker_disabled"
    BAD_CREDENTIAL = "bad_credential"
    EXPIRED_CREDENTIAL = "expired_credential"
    NO_SUCH_TARGET = "no_such_target"
    DENIED = "denied"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"


class Refused(Struct, frozen=True):
    """No. `reason` and `help` may be shown to the agent; they say nothing internal. `request_id` 0: signing on."""

    request_id: int
    code: RefusalCode
    reason: str
    help: str = ""


class RequestVerifier(Struct, frozen=True):
    """By what does this database login prove itself? `login` is the id in the user name `ng_<id>`, in hex."""

    request_id: int
    login: str
    client_address: str


class LoginVerifier(Struct, frozen=True):
    """The login's SCRAM verifier in PostgreSQL's form; of a login that there isn't, one that nobody can satisfy.

    Who satisfies it shows the SCRAM client key, in the credential `ngd_<login>_<key in hex>` of an `OpenSession`.
    """

    request_id: int
    verifier: Secret


class CloseSession(Struct, frozen=True):
    """The session has ended in the data path. The record of it comes by the journal."""

    session_id: str
    reason: str


class Revoke(Struct, frozen=True):
    """End these sessions now; an empty list means every session of the process whose link it is."""

    session_ids: tuple[str, ...]
    reason: str


class PolicyChanged(Struct, frozen=True):
    """All running sessions decide by this policy from their next operation on: a worker has one tenant."""

    policy: Policy


# ---------------------------------------------------------------- approvals


class Parameter(msgspec.Struct, frozen=True, array_like=True):
    """One bind value. `value` None is NULL; `truncated_bytes` is how many bytes of it are in the content only.

    `binary`: the value was sent in the protocol's binary form and `value` is its hex.
    """

    value: str | None
    binary: bool = False
    truncated_bytes: int = 0


class ApprovalState(StrEnum):
    """How a request for approval stands. VOID: what it was bound to has changed."""

    PENDING = "pending"
    GRANTED = "granted"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    VOID = "void"


class RequestApproval(Struct, frozen=True):
    """May this operation pass? Asked before it reaches the target, and again for all that are held after a lost link.

    The same session and `op` is the same request. `operation_sha256`, 32 bytes, is of the whole text and every
    parameter, wherever `text` (at most `MAX_RECORDED_TEXT_BYTES`) and `parameters` are cut. What it is bound to beside
    that, principal, target and policy version, the control plane takes from the session and the decision.
    """

    request_id: int
    session_id: str
    op: int
    kind: str
    text: str
    text_bytes: int
    operation_sha256: bytes
    parameters: tuple[Parameter, ...]
    operation: Operation
    decision: Decision


class ApprovalTicket(Struct, frozen=True):
    """How the request stands now. `url` is where a person decides; `reason` may be shown to the agent.

    GRANTED is used up by this answer: the operation may pass once. `expires_at`: when a PENDING one lapses.
    """

    request_id: int
    approval_id: str
    url: str
    state: ApprovalState
    reason: str
    expires_at: float


class ApprovalDecided(Struct, frozen=True):
    """A request that was pending is not any more. Pushed to the worker that asked; GRANTED is used up by it."""

    approval_id: str
    state: ApprovalState
    reason: str


class WithdrawApproval(Struct, frozen=True):
    """The agent no longer waits: it cancelled, or has gone."""

    approval_id: str
    reason: str


class AskPreview(Struct, frozen=True):
    """Find out what the held or deferred operation would touch, without doing it. `exact`: count, don't estimate."""

    approval_id: str
    exact: bool


class ApprovalPreview(Struct, frozen=True):
    """What an operation would touch. `rows` None: can't be told, and `problem` says why. `plan` is the target's."""

    approval_id: str
    exact: bool
    rows: int | None
    plan: str
    problem: str


# ---------------------------------------------------------------- budgets


class Amounts(msgspec.Struct, frozen=True, array_like=True):
    """How much of a limit: operations, rows, bytes."""

    operations: int = 0
    rows: int = 0
    bytes: int = 0


class ReserveBudget(Struct, frozen=True):
    """A part of what `limit`, of `rule`, leaves to whom the session's operations count for.

    A lease is made by its first question, under an id of the worker's own. `used` is all that was used of it so far,
    and `wanted` what should be there beyond that; all 0 gives back what is left. As `used` is a total, a question may
    be repeated. `period_start`: the period that the lease is of, 0 at first; of one that has passed nothing more is
    given.
    """

    request_id: int
    session_id: str
    rule: str
    limit: Limit
    lease_id: str
    period_start: float
    used: Amounts
    wanted: Amounts


class BudgetLease(Struct, frozen=True):
    """All that was ever given to the lease, good for `lasts_seconds` from the question on; then what is unused returns.

    `left` is what nobody has used in the period, which ends at `resets_at`. What is given may be less than was wanted,
    down to what is used: then the budget is used up, or others have leased the rest.
    """

    request_id: int
    granted: Amounts
    left: Amounts
    period_start: float
    resets_at: float
    lasts_seconds: float


#: A counted value is this long: a keyed digest, too long for two values to share one.
VALUE_BYTES: Final = 16
#: Of one question: 64 KiB. What a read of the target holds beyond that is asked for next.
MAX_COUNTED_VALUES: Final = 4_096


class CountValues(Struct, frozen=True):
    """These values, of the columns that `limit` of `rule` counts, are about to be shown: may they be?

    `values` are digests of `VALUE_BYTES` each, at most `MAX_COUNTED_VALUES`, made with the key of the budget; none asks
    for the key. The same question may be repeated.
    """

    request_id: int
    session_id: str
    rule: str
    limit: Limit
    values: bytes


class ValuesCounted(Struct, frozen=True):
    """The first `accepted` of the values count as shown in the period, which ends at `resets_at`; no further one may.

    `used`: all that were shown in the period. `key`: what values are digested with, 32 bytes, the same for all workers.
    """

    request_id: int
    accepted: int
    used: int
    key: Secret
    period_start: float
    resets_at: float


class Heartbeat(Struct, frozen=True):
    """Still here. `journal_bytes`: what the journal holds unacknowledged."""

    sessions: int
    journal_bytes: int


# ---------------------------------------------------------------- records


class AppendRecords(Struct, frozen=True):
    """A contiguous batch. `records` are the encoded records as the journal holds them, `first_seq` the first one's.

    `chain_before` and `chain_after` are the journal's hash chain around the batch: chain(n) = SHA-256(chain(n-1) ‖
    record n), chain(0) = 32 zero bytes. The control plane recomputes it.
    """

    request_id: int
    journal_id: str
    first_seq: int
    chain_before: bytes
    chain_after: bytes
    records: list[bytes]


class Ack(Struct, frozen=True):
    """Everything up to and including `seq` is appended; the worker may forget it. Lower than sent: go on from there."""

    request_id: int
    journal_id: str
    seq: int


class OperationApproval(Struct, frozen=True):
    """What became of the approval that an operation needed. Durable before the target hears of the operation."""

    session_id: str
    op: int
    at: float
    approval_id: str
    state: ApprovalState
    reason: str


class RequestUpload(Struct, frozen=True):
    """Where may this content segment go? `sha256` is of the file, 32 bytes. `index` counts from 0 in the session."""

    request_id: int
    session_id: str
    index: int
    sha256: bytes
    size_bytes: int


class UploadTicket(Struct, frozen=True):
    """PUT the file here with these headers. A relative `url` is relative to the link's origin. Empty: already there."""

    request_id: int
    url: str
    headers: dict[str, str]


class SessionOpened(Struct, frozen=True):
    """An agent has a session on a target."""

    session_id: str
    at: float
    protocol: str
    principal: Principal
    target_id: str
    target: str
    client_address: str
    client_name: str
    tls: TlsFacts
    policy_version: str


class OperationIntent(Struct, frozen=True):
    """The agent wants this done. Durable before the target hears of it.

    `op` counts from 1 within the session. `text` is at most `MAX_RECORDED_TEXT_BYTES` of the operation's text, whose
    whole has `text_bytes` bytes and the digest `text_sha256`. `kind` is the protocol's word, for PostgreSQL "query",
    "prepare", "execute", "function", "cancel"; `operation` is what it was understood to be.
    """

    session_id: str
    op: int
    at: float
    kind: str
    text: str
    text_bytes: int
    text_sha256: bytes
    parameters: tuple[Parameter, ...]
    decision: Decision
    operation: Operation | None = None


class OutcomeStatus(StrEnum):
    """How an operation ended. UNKNOWN: the worker died, or the target was lost, before the answer."""

    OK = "ok"
    ERROR = "error"
    DENIED = "denied"
    UNKNOWN = "unknown"


class OperationOutcome(Struct, frozen=True):
    """What came of it. Durable before the last byte of the answer leaves.

    `tags` are the target's own words for what was done ("SELECT 3", "INSERT 0 1"). `bytes_in` is what the agent sent
    beside the text (COPY data, and what was cut from a long text or parameter), `bytes_out` what it was shown; the two
    digests, 32 bytes or empty, are of those bytes.
    """

    session_id: str
    op: int
    at: float
    status: OutcomeStatus
    duration_us: int
    rows: int
    bytes_in: int
    bytes_out: int
    content_sha256: bytes
    error_code: str = ""
    error_message: str = ""
    tags: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    content_in_sha256: bytes = b""


class SessionClosed(Struct, frozen=True):
    """The session is over. `reason` is a short phrase; `operations` is the highest `op`."""

    session_id: str
    at: float
    reason: str
    operations: int


class JournalOpened(Struct, frozen=True):
    """A worker took up this journal, at its start. `recovered_unknown`: intents without outcome that it found."""

    at: float
    journal_id: str
    worker: str
    recovered_unknown: int


T = TypeVar("T")
Record = SessionOpened | OperationIntent | OperationApproval | OperationOutcome | SessionClosed | JournalOpened
FromWorker = (
    Enrol
    | Authenticate
    | OpenSession
    | RequestVerifier
    | CloseSession
    | Heartbeat
    | AppendRecords
    | RequestUpload
    | RequestApproval
    | ReserveBudget
    | CountValues
    | WithdrawApproval
    | ApprovalPreview
)
FromControlPlane = (
    Challenge
    | Welcome
    | SessionGrant
    | LoginVerifier
    | Refused
    | Revoke
    | PolicyChanged
    | Ack
    | UploadTicket
    | ApprovalTicket
    | ApprovalDecided
    | AskPreview
    | BudgetLease
    | ValuesCounted
)


class Direction(StrEnum):
    """Who sent a piece of content."""

    FROM_AGENT = "i"
    TO_AGENT = "o"


_encoder = msgspec.msgpack.Encoder()
_record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
_from_worker_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_from_control_plane_decoder: msgspec.msgpack.Decoder[FromControlPlane] = msgspec.msgpack.Decoder(FromControlPlane)


class ContractError(ValueError):
    """Bytes that are no frame or record of this version. The text is msgspec's and quotes no value."""


def encode(struct: FromWorker | FromControlPlane | Record) -> bytes:
    """The struct as msgpack."""
    return _encoder.encode(struct)


def decode_record(data: bytes | memoryview) -> Record:
    """Raises `ContractError`."""
    return _decode(_record_decoder, data)


def decode_from_worker(data: bytes) -> FromWorker:
    """Raises `ContractError`."""
    return _decode(_from_worker_decoder, data)


def decode_from_control_plane(data: bytes) -> FromControlPlane:
    """Raises `ContractError`."""
    return _decode(_from_control_plane_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ContractError(str(error)) from error
    except UnicodeDecodeError as error:  # msgspec lets it through
        raise ContractError("text that is no UTF-8") from error
