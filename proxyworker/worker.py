"""A worker process, put together: configuration → identity → journal → link → shipper → listeners; and taken apart."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import Awaitable, Sequence
from typing import Final

import httpx
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from policies.engine import Policy
from proxyworker import postgres
from proxyworker.adoption import Adoption
from proxyworker.config import Config
from proxyworker.contract import Heartbeat, Welcome
from proxyworker.errors import ConfigError
from proxyworker.gate.approve import Approvals
from proxyworker.gate.content import ContentPress
from proxyworker.gate.listener import Listener
from proxyworker.gate.live import LiveSessions
from proxyworker.gate.meter import Budgets
from proxyworker.gate.services import Services
from proxyworker.identity import Identity
from proxyworker.journal import Journal, JournalFailed
from proxyworker.journal.shipper import Shipper
from proxyworker.link import Link
from proxyworker.net.siblings import Siblings
from proxyworker.net.tasks import spawn

#: Sessions get this long to finish what they do, at the end.
GRACE_SECONDS: Final = 2.0
#: And then this long to say goodbye.
END_SECONDS: Final = 0.5
#: And the control plane this long to take the rest of the record; what it doesn't take is sent at the next start.
DRAIN_SECONDS: Final = 1.0
STOPPING: Final = "the worker is stopping"

_log = structlog.get_logger(__name__)


class Worker:
    """One worker process, from its start to its end. Raises `WorkerError` or `OSError` while it is put together."""

    def __init__(self, config: Config, siblings: Siblings) -> None:
        self._siblings = siblings
        self._stop = asyncio.Event()
        self._failure: JournalFailed | None = None
        self._config = config
        self._gate_tls = _gate_tls(config)
        identity = Identity(
            config.state_folder,
            name=config.name,
            join_token_file=config.join_token_file,
            process=config.process,
            processes=config.processes,
        )
        link_tls = _link_tls(config)
        is_encrypted = config.link_url.startswith("wss:")
        self._link = Link(config.link_url, identity=identity, tls=link_tls if is_encrypted else None)
        self._journal = Journal.open(
            config.folder / "journal",
            worker=config.name,
            bound_bytes=config.journal_bound_bytes,
            clock=time.time,
            loop=asyncio.get_running_loop(),
        )
        self._client = httpx.AsyncClient(verify=link_tls, trust_env=False, follow_redirects=False)
        self._shipper = Shipper(
            self._journal,
            link=self._link,
            spool_folder=config.folder / "spool",
            client=self._client,
            origin=config.link_origin,
        )
        self._adoption = Adoption(config, link=self._link, client=self._client)
        self._live = LiveSessions(time.time)
        self._approvals = Approvals(self._link, time.time)
        self._budgets = Budgets(self._link, time.time)
        self._press = ContentPress()
        self._journal.on_failure.append(self._on_journal_failure)
        self._link.on_welcome = self._on_welcome
        self._link.on_revoke = self._on_revoke
        self._link.on_policy = self._on_policy
        self._link.on_up = self._approvals.linked
        self._link.on_approval_decided = self._approvals.decided
        self._link.on_preview_asked = self._approvals.preview_asked
        self._link.vitals = self._vitals

    async def run(self) -> int:
        """Serve until told to stop, or until the record can't be kept. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        link = spawn("link", self._link.run())
        shipper = spawn("shipper", self._shipper.run())
        # One of them has to take up what others left, and there always is a process 0.
        adoption = [spawn("adoption", self._adoption.run())] if self._config.process == 0 else []
        self._siblings.listen()
        services = Services(
            link=self._link,
            journal=self._journal,
            live=self._live,
            approvals=self._approvals,
            budgets=self._budgets,
            press=self._press,
            clock=time.time,
            siblings=self._siblings,
        )
        try:
            listener = await postgres.serve(
                listen=self._config.postgres_listen,
                tls=self._gate_tls,
                certificate=_gate_certificate(self._config),
                services=services,
            )
            _log.info("listening", protocol="postgres", address="{}:{}".format(*self._config.postgres_listen))
            await self._stop.wait()
            _log.info("stopping", sessions=self._live.count)
            await self._end_sessions(listener)
            await self._budgets.close()
            await self._drain()
        finally:
            tasks = (*adoption, shipper, link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._siblings.close()
            await asyncio.to_thread(self._press.close)
            await self._client.aclose()
            if self._failure is None:
                await self._journal.close()
        return 0 if self._failure is None else 1

    async def _end_sessions(self, listener: Listener) -> None:
        """Take no more, let those that run finish what they do, then end them."""
        await listener.close()
        if self._failure is None:
            await _within(GRACE_SECONDS, self._live.wait_empty())
        self._live.end((), STOPPING)
        await _within(END_SECONDS, self._live.wait_empty())

    async def _drain(self) -> None:
        if self._failure is None and self._link.connected:
            await _within(DRAIN_SECONDS, self._shipper.wait_acknowledged(self._journal.seq))

    def _on_journal_failure(self, failure: JournalFailed) -> None:
        """Without a record nothing may run."""
        self._failure = failure
        self._live.end((), "the gate can't keep its record any more")
        self._stop.set()

    def _on_revoke(self, session_ids: Sequence[str], reason: str) -> None:
        _log.info("revoked", sessions=len(session_ids) or "all", reason=reason)
        self._live.end(session_ids, reason)

    def _on_policy(self, policy: Policy) -> None:
        _log.info("policy_changed", version=policy.version, sessions=self._live.count)
        self._live.use_policy(policy)

    def _on_welcome(self, welcome: Welcome) -> None:
        self._shipper.welcomed(welcome)
        self._adoption.welcomed(welcome)

    def _vitals(self) -> Heartbeat:
        journal_bytes = self._journal.unacknowledged_bytes + self._adoption.unacknowledged_bytes
        return Heartbeat(sessions=self._live.count, journal_bytes=journal_bytes)


async def _within(seconds: float, done: Awaitable[None]) -> None:
    """Wait, but no longer than that."""
    try:
        async with asyncio.timeout(seconds):
            await done
    except TimeoutError:
        _log.info("not_waited_for", seconds=seconds)


def _gate_tls(config: Config) -> ssl.SSLContext:
    """What agents meet. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            "NARROWGATE_TLS_CERT_FILE", "and NARROWGATE_TLS_KEY_FILE are no pair", "Give a PEM certificate and its key"
        ) from error
    return context


def _gate_certificate(config: Config) -> bytes:
    """The first certificate of the file, which is the gate's own, in DER. `_gate_tls` has read it."""
    return x509.load_pem_x509_certificate(config.tls_cert_file.read_bytes()).public_bytes(Encoding.DER)


def _link_tls(config: Config) -> ssl.SSLContext:
    """Whom the link trusts. Raises `ConfigError`."""
    try:
        return ssl.create_default_context(cafile=config.link_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError("NARROWGATE_LINK_CA_FILE", "holds no certificate", "Give the CA's, in PEM") from error
