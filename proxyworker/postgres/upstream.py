"""A connection to a target: TCP, TLS with verification, authentication, start-up ("Message Flow: Start-up")."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

import scramp

from proxyworker.contract import TargetEndpoint, TlsMode, UpstreamCredential
from proxyworker.net.binding import server_end_point
from proxyworker.net.handshake import HandshakeProtocol, PeerGone
from proxyworker.postgres.errors import TargetBrokeProtocol, TargetError, TargetRefused, TargetUnreachable
from proxyworker.wire.postgres import backend, frontend, startup
from proxyworker.wire.postgres.errors import WireError

#: From the first packet to ReadyForQuery. A healthy target needs milliseconds; a starting one refuses by itself.
CONNECT_SECONDS: Final = 15.0
#: No message of a start-up is longer: errors and notices have a few hundred bytes.
MAX_STARTUP_MESSAGE_BYTES: Final = 64 * 1024
#: ParameterStatus and notices between authentication and ReadyForQuery.
MAX_STARTUP_MESSAGES: Final = 200

_SCRAM: Final = "SCRAM-SHA-256"
_SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"


@dataclass(slots=True)
class Upstream:
    """A target that is ready for queries. `greeting`: what it said of itself (ParameterStatus, notices).

    `began_with`: what the startup message set, if any of it leads names elsewhere.
    """

    handshake: HandshakeProtocol
    process_id: int = 0
    cancel_secret: bytes = field(default=b"", repr=False)
    greeting: bytes = b""
    transaction_status: int = backend.IDLE
    began_with: str = ""

    def settings(self) -> list[tuple[str, str]]:
        """Names and values of the settings in its greeting."""
        found: list[tuple[str, str]] = []
        at = 0
        while at < len(self.greeting):
            end = at + 1 + int.from_bytes(self.greeting[at + 1 : at + 5], "big")
            if self.greeting[at] == backend.PARAMETER_STATUS:
                found.append(backend.parse_parameter_status(self.greeting, at, end))
            at = end
        return found


async def connect(endpoint: TargetEndpoint, credential: UpstreamCredential, parameters: dict[str, str]) -> Upstream:
    """Connect, authenticate and start a session with these startup parameters.

    Raises `TargetUnreachable`, `TargetRefused`, or `TargetBrokeProtocol`.
    """
    handshake: HandshakeProtocol | None = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            handshake = await open_transport(endpoint)
            try:
                handshake.write(
                    startup.build_startup({**parameters, "user": credential.username, "database": endpoint.database})
                )
            except ValueError as error:
                raise TargetRefused(str(error)) from error
            upstream = Upstream(handshake)
            await _authenticate(handshake, credential)
            await _until_ready(upstream)
            return upstream
    except TargetError:
        _abort(handshake)
        raise
    except WireError as error:
        _abort(handshake)
        raise TargetBrokeProtocol(error.problem) from error
    except (TimeoutError, PeerGone, OSError) as error:
        _abort(handshake)
        raise TargetUnreachable(f"{type(error).__name__} while connecting") from error
    except BaseException:  # cancelled: nobody else knows of the connection
        _abort(handshake)
        raise


async def send_cancel(endpoint: TargetEndpoint, process_id: int, secret: bytes) -> None:
    """Ask the target to cancel what this session of its does, over a connection of its own.

    Raises `TargetUnreachable`. The target never answers; it closes the connection.
    """
    handshake: HandshakeProtocol | None = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            handshake = await open_transport(endpoint)
            handshake.write(startup.build_cancel_request(process_id, secret))
            with contextlib.suppress(PeerGone):
                await handshake.read_exactly(1)
    except (TimeoutError, OSError) as error:
        raise TargetUnreachable(f"{type(error).__name__} while cancelling") from error
    finally:
        _abort(handshake)


async def open_transport(endpoint: TargetEndpoint) -> HandshakeProtocol:
    """TCP, then TLS as the endpoint wants it. Raises `TargetUnreachable` or `OSError`; the caller bounds the time."""
    loop = asyncio.get_running_loop()
    # Made here, because uvloop returns its own TLS protocol in place of ours.
    handshake = HandshakeProtocol()
    if endpoint.tls_mode is TlsMode.DISABLE:
        await loop.create_connection(lambda: handshake, endpoint.host, endpoint.port)
        return handshake
    context = _tls_context(endpoint)
    raw = await _connect_socket(endpoint)
    try:
        await loop.sock_sendall(raw, startup.build_ssl_request())
        # Exactly one byte: anything more before the TLS handshake would be somebody's injection (CVE-2021-23222).
        answer = await loop.sock_recv(raw, 1)
        if answer != b"S":
            raise TargetUnreachable("the target offers no TLS, and its configuration wants it")
        await loop.create_connection(lambda: handshake, sock=raw, ssl=context, server_hostname=endpoint.host)
    except BaseException:
        raw.close()
        raise
    return handshake


async def _connect_socket(endpoint: TargetEndpoint) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        raw = socket.socket(family, kind, protocol)
        raw.setblocking(False)
        try:
            await loop.sock_connect(raw, address)
        except OSError as error:
            raw.close()
            failure = error
        except BaseException:
            raw.close()
            raise
        else:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return raw
    raise failure


def _tls_context(endpoint: TargetEndpoint) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=endpoint.ca_pem or None)
    except (ssl.SSLError, ValueError) as error:
        raise TargetUnreachable("the target's CA certificate can't be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = endpoint.tls_mode is TlsMode.VERIFY_FULL
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _read_frame(handshake: HandshakeProtocol) -> bytes:
    header = await handshake.read_exactly(5)
    length = int.from_bytes(header[1:5], "big")
    if not 4 <= length <= MAX_STARTUP_MESSAGE_BYTES:
        raise TargetBrokeProtocol("a start-up message of an impossible length")
    return header + await handshake.read_exactly(length - 4)


async def _read_authentication(handshake: HandshakeProtocol) -> tuple[int, bytes]:
    frame = await _read_frame(handshake)
    if frame[0] == backend.ERROR_RESPONSE:
        raise _refused(frame)
    if frame[0] != backend.AUTHENTICATION:
        raise TargetBrokeProtocol("another message where authentication was expected")
    return backend.parse_authentication(frame)


def _refused(frame: bytes) -> TargetRefused:
    # The code alone: the text of a failed login may quote user and host.
    code = backend.parse_error(frame, 0, len(frame)).code
    return TargetRefused(f"the target refused the session with SQLSTATE {code}")


async def _authenticate(handshake: HandshakeProtocol, credential: UpstreamCredential) -> None:
    code, body = await _read_authentication(handshake)
    if code == backend.AUTH_CODE_OK:
        return
    secret = credential.secret.value.encode()
    if code == backend.AUTH_CODE_CLEARTEXT:
        if handshake.transport.get_extra_info("ssl_object") is None:
            raise TargetRefused("the target wants its password in clear text over a connection without TLS")
        handshake.write(frontend.build_password(secret))
    elif code == backend.AUTH_CODE_MD5:
        handshake.write(frontend.build_password(_md5(credential.username.encode(), secret, salt=body)))
    elif code == backend.AUTH_CODE_SASL:
        await _authenticate_scram(handshake, credential, backend.parse_sasl_mechanisms(body))
    else:
        raise TargetRefused(f"the target wants authentication method {code}, which is not supported")
    code, _ = await _read_authentication(handshake)
    if code != backend.AUTH_CODE_OK:
        raise TargetBrokeProtocol("authentication went on where it should have ended")


def _md5(username: bytes, secret: bytes, *, salt: bytes) -> bytes:
    # "AuthenticationMD5Password": concat('md5', md5(concat(md5(concat(password, username)), salt)))
    inner = hashlib.md5(secret + username, usedforsecurity=False).hexdigest().encode()
    return b"md5" + hashlib.md5(inner + salt, usedforsecurity=False).hexdigest().encode()


async def _authenticate_scram(
    handshake: HandshakeProtocol, credential: UpstreamCredential, offered: tuple[str, ...]
) -> None:
    tls = handshake.transport.get_extra_info("ssl_object")
    binding = None
    usable = [name for name in offered if name == _SCRAM]
    if tls is not None:
        # With the digest of the certificate that the target showed, a relay between us and it would fail.
        digest = server_end_point(tls.getpeercert(binary_form=True))
        if digest is not None:
            binding = ("tls-server-end-point", digest)
            usable = [name for name in offered if name in (_SCRAM, _SCRAM_PLUS)]
    if not usable:
        raise TargetRefused("the target offers no SCRAM-SHA-256")
    try:
        client = scramp.ScramClient(usable, credential.username, credential.secret.value, channel_binding=binding)
        handshake.write(frontend.build_sasl_initial(client.mechanism_name, client.get_client_first().encode()))
        code, body = await _read_authentication(handshake)
        if code != backend.AUTH_CODE_SASL_CONTINUE:
            raise TargetBrokeProtocol("SCRAM did not continue")
        # PBKDF2 takes milliseconds at the target's iteration count, which it chooses: not on the event loop.
        await asyncio.to_thread(client.set_server_first, body.decode("ascii", "strict"))
        handshake.write(frontend.build_sasl_response((await asyncio.to_thread(client.get_client_final)).encode()))
        code, body = await _read_authentication(handshake)
        if code != backend.AUTH_CODE_SASL_FINAL:
            raise TargetBrokeProtocol("SCRAM did not end")
        client.set_server_final(body.decode("ascii", "strict"))
    except (scramp.ScramException, UnicodeDecodeError) as error:
        raise TargetRefused("SCRAM failed: the target could not prove that it knows the password") from error


async def _until_ready(upstream: Upstream) -> None:
    greeting: list[bytes] = []
    for _ in range(MAX_STARTUP_MESSAGES):
        frame = await _read_frame(upstream.handshake)
        kind = frame[0]
        if kind == backend.READY_FOR_QUERY:
            upstream.transaction_status = frame[5] if len(frame) > 5 else backend.IDLE
            upstream.greeting = b"".join(greeting)
            return
        if kind == backend.ERROR_RESPONSE:
            raise _refused(frame)
        if kind == backend.BACKEND_KEY_DATA:
            upstream.process_id, upstream.cancel_secret = backend.parse_backend_key(frame, 0, len(frame))
        elif kind in (backend.PARAMETER_STATUS, backend.NOTICE_RESPONSE):
            greeting.append(frame)
        elif kind != backend.NEGOTIATE_VERSION:
            raise TargetBrokeProtocol("an unexpected message before ReadyForQuery")
    raise TargetBrokeProtocol("start-up did not end")


def _abort(handshake: HandshakeProtocol | None) -> None:
    if handshake is not None:
        handshake.transport.abort()
