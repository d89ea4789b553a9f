"""From a new connection to a running session: startup message, credential, grant, target ("Message Flow: Start-up").

A client whose user is a database login of ours proves its password by SCRAM (`scram`), and is never asked for it; any
other sends its token as the password.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from policies.engine import Effect
from proxyworker.contract import MAX_CREDENTIAL_BYTES, RefusalCode, SessionGrant, TlsFacts
from proxyworker.gate.decide import Decider
from proxyworker.gate.errors import NotAdmitted, RecordNotKept
from proxyworker.gate.identify import identify
from proxyworker.gate.record import SessionRecorder
from proxyworker.gate.services import Services
from proxyworker.net.handshake import HandshakeProtocol, PeerGone
from proxyworker.postgres.errors import (
    CANNOT_CONNECT_NOW,
    INVALID_AUTHORIZATION,
    PROTOCOL_VIOLATION,
    TargetError,
    fatal,
    refusal,
)
from proxyworker.postgres.front_door import Connection, NoTls
from proxyworker.postgres.keys import CancelKeys
from proxyworker.postgres.scram import login_of, prove
from proxyworker.postgres.session import PostgresSession
from proxyworker.postgres.settings import settings_operation, settings_that_count
from proxyworker.postgres.upstream import Upstream, connect
from proxyworker.wire.postgres import backend, frontend
from proxyworker.wire.postgres.errors import NotBound, WireError
from proxyworker.wire.postgres.startup import PROTOCOL_3_0, PROTOCOL_3_2, CancelRequest, StartupMessage

#: An agent has this long for TLS, its startup message and its token. Machines need milliseconds.
LOGIN_SECONDS: Final = 10.0
#: Startup parameters that are ours to set, or that ask for what the gate does not do.
_OURS: Final = frozenset({"user", "database", "replication"})
MAX_CLIENT_NAME_CHARACTERS: Final = 200
_HELP_NOT_BOUND: Final = (
    "Connect to the gate itself, with sslmode=verify-full and its CA certificate: what ends TLS in between, or changes "
    "what passes, can't be told from an attack."
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a client has shown of itself, and what it waits for before it is told that it is in."""

    credential: bytes = field(repr=False)
    proof_of_ours: bytes = field(default=b"", repr=False)


class Login:
    """Admits connections of one listener. `admit` is what `gate.listener.Listener` calls.

    `binding` is the digest of the certificate in `tls` by which clients bind SCRAM to it; None: it has none.
    """

    def __init__(self, services: Services, tls: ssl.SSLContext, *, binding: bytes | None) -> None:
        self._services = services
        self._tls = tls
        self._binding = binding
        self._keys = CancelKeys(services.siblings)

    async def admit(self, raw: socket.socket, address: str) -> None:
        """Let the connection in as a session, or refuse it; one log line either way.

        Raises `OSError`, `TimeoutError`.
        """
        connection = Connection(raw, self._tls)
        handshake: HandshakeProtocol | None = None
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                handshake, packet = await connection.enter()
                if isinstance(packet, CancelRequest):
                    self._cancel(packet, handshake or connection, address)
                    return
                assert handshake is not None  # noqa: S101 - a startup message comes by TLS only
                shown = await self._identify(handshake, packet, address=address)
            await self._open(handshake, packet, shown=shown, address=address)
        except NoTls:
            reason = "TLS is required"
            await connection.refuse(
                fatal(INVALID_AUTHORIZATION, reason, "Connect with sslmode=verify-full and the gate's CA certificate.")
            )
            _refused(address, reason)
        except NotAdmitted as error:
            _refused(address, error.reason)
            _say_and_close(handshake, refusal(error))
        except NotBound as error:
            _refused(address, error.problem)
            _say_and_close(handshake, fatal(INVALID_AUTHORIZATION, error.problem, _HELP_NOT_BOUND))
        except WireError as error:
            _refused(address, error.problem)
            _say_and_close(handshake, fatal(PROTOCOL_VIOLATION, error.problem))
            connection.close()
        except PeerGone:
            _refused(address, "it went away while logging in")
            _say_and_close(handshake, b"")
            connection.close()
        except BaseException:
            if handshake is not None:
                handshake.transport.abort()
            raise

    def _cancel(self, request: CancelRequest, connection: HandshakeProtocol | Connection, address: str) -> None:
        self._keys.cancel(request.process_id, request.secret, client=address)
        if isinstance(connection, HandshakeProtocol):
            connection.transport.close()
        else:
            connection.close()

    async def _identify(self, handshake: HandshakeProtocol, packet: StartupMessage, *, address: str) -> Shown:
        if packet.protocol > PROTOCOL_3_2 or packet.protocol == 0x0003_0001 or packet.protocol_options:
            # There never was a 3.1; a client that asks for it gets 3.0, as from PostgreSQL 18.
            newest = PROTOCOL_3_2 if packet.protocol >= PROTOCOL_3_2 else PROTOCOL_3_0
            handshake.write(backend.build_negotiate(newest, packet.protocol_options))
        if "replication" in packet.parameters and packet.parameters["replication"] not in ("false", "off", "no", "0"):
            raise NotAdmitted(
                RefusalCode.DENIED,
                "replication connections are not supported: their stream can be neither decided on nor masked",
            )
        login = login_of(packet.parameters.get("user", ""))
        if login is None:
            return Shown(credential=await self._ask_token(handshake))
        proved = await prove(handshake, self._services, login, binding=self._binding, client_address=address)
        return Shown(credential=proved.credential, proof_of_ours=backend.build_sasl_final(proved.server_final))

    async def _ask_token(self, handshake: HandshakeProtocol) -> bytes:
        handshake.write(backend.AUTH_CLEARTEXT)
        header = await handshake.read_exactly(5)
        length = int.from_bytes(header[1:5], "big")
        if header[0] != frontend.PASSWORD or not 5 <= length <= MAX_CREDENTIAL_BYTES + 5:
            raise NotAdmitted(
                RefusalCode.BAD_CREDENTIAL,
                f"the password is not a token of 1 to {MAX_CREDENTIAL_BYTES} bytes",
                "Use an agent token, or an OIDC token of your tenant's provider, as the password.",
            )
        return frontend.parse_password(header + await handshake.read_exactly(length - 4))

    async def _open(self, handshake: HandshakeProtocol, packet: StartupMessage, *, shown: Shown, address: str) -> None:
        parameters = packet.parameters
        client_name = parameters.get("application_name", "")[:MAX_CLIENT_NAME_CHARACTERS]
        tls = _tls_facts(handshake)
        grant = await identify(
            self._services,
            protocol="postgres",
            target=parameters.get("database") or parameters.get("user", ""),
            credential=shown.credential,
            client_address=address,
            client_name=client_name,
            tls=tls,
        )
        passed_on = {name: value for name, value in parameters.items() if name not in _OURS}
        opening = _Opening(self._services, grant)
        opening.recorder.opened(grant, client_address=address, client_name=client_name, tls=tls)
        try:
            opening.recorder.flush()
            _admit_settings(grant, passed_on, now=self._services.clock)
            upstream = await connect(grant.target, grant.credential, passed_on)
            upstream.began_with = settings_that_count(passed_on)
        except TargetError as error:
            _log.warning("target_failed", session=grant.session_id, target=grant.target.name, problem=error.problem)
            opening.give_up("the target could not be reached")
            handshake.write(
                fatal(
                    CANNOT_CONNECT_NOW,
                    f"target {grant.target.name} cannot be reached or does not accept the gate",
                    "It may be down or starting: try again later. If it lasts, tell an administrator of Narrowgate.",
                )
            )
            handshake.transport.close()
            return
        except NotAdmitted:
            opening.give_up("its startup message changes settings")
            raise
        except RecordNotKept as error:
            opening.give_up("the record could not be kept")
            raise NotAdmitted(RefusalCode.UNAVAILABLE, "the gate cannot keep its record, so nothing may run") from error
        except BaseException:
            opening.give_up("the agent did not wait")
            raise
        try:
            self._start(opening, handshake, upstream, shown=shown, protocol=packet.protocol)
        except PeerGone:
            upstream.handshake.transport.abort()
            opening.give_up("the agent did not wait")
            raise
        _log.info(
            "session_opened",
            session=grant.session_id,
            agent=grant.principal.name,
            target=grant.target.name,
            client=address,
        )

    def _start(
        self, opening: _Opening, handshake: HandshakeProtocol, upstream: Upstream, *, shown: Shown, protocol: int
    ) -> None:
        session = PostgresSession(
            services=self._services,
            grant=opening.grant,
            recorder=opening.recorder,
            agent=handshake.transport,
            upstream=upstream,
            on_closed=lambda: self._keys.forget(process_id),
        )
        process_id, secret = self._keys.issue(session, protocol)
        opening.session = session
        self._services.live.add(session)
        handshake.write(
            shown.proof_of_ours
            + backend.AUTH_OK
            + upstream.greeting
            + backend.build_backend_key(process_id, secret)
            + backend.build_ready(upstream.transaction_status)
        )
        try:
            upstream.handshake.hand_over(session.target_side)
        except PeerGone:
            session.end("the target closed the connection")
            return
        handshake.hand_over(session.agent_side)


class _Opening:
    """A granted session that does not run yet: its record begins with the grant, whatever becomes of it."""

    def __init__(self, services: Services, grant: SessionGrant) -> None:
        self.grant = grant
        self.session: PostgresSession | None = None
        self._services = services
        self.recorder = SessionRecorder(
            grant=grant,
            journal=services.journal,
            lane=services.press.lane(),
            clock=services.clock,
            on_level=self._level,
            on_failure=self._failure,
        )

    def give_up(self, reason: str) -> None:
        """The session never ran, or its agent has gone."""
        if self.session is not None:
            self.session.end(reason)
            return
        try:
            self.recorder.close(reason, lambda _: None)
        except RecordNotKept as error:
            _log.error("record_not_kept", session=self.grant.session_id, problem=str(error))
        self._services.link.session_closed(self.grant.session_id, reason)

    def _level(self, high: bool) -> None:
        if self.session is not None:
            self.session.content_level(high)

    def _failure(self, error: RecordNotKept) -> None:
        if self.session is not None:
            self.session.record_failed(error)


def _admit_settings(grant: SessionGrant, parameters: dict[str, str], *, now: Callable[[], float]) -> None:
    """Have policy decide on dangerous settings, as on a SET of them. Raises `NotAdmitted`."""
    operation = settings_operation(parameters)
    if operation is None:
        return
    decision = Decider(grant, now).decide(operation, b"")
    if decision.effect is not Effect.ALLOW:
        reason = f"the startup message changes settings ({', '.join(operation.hazards)}): {decision.reason}"
        raise NotAdmitted(RefusalCode.DENIED, reason, "Connect without these settings.")


def _tls_facts(handshake: HandshakeProtocol) -> TlsFacts:
    tls = handshake.transport.get_extra_info("ssl_object")
    cipher = tls.cipher()
    return TlsFacts(version=tls.version() or "", cipher=cipher[0] if cipher else "")


def _refused(address: str, reason: str) -> None:
    _log.warning("refused", listener="postgres", client=address, reason=reason)


def _say_and_close(handshake: HandshakeProtocol | None, farewell: bytes) -> None:
    if handshake is not None:
        if farewell:
            handshake.write(farewell)
        handshake.transport.close()
