"""The one outbound WebSocket to the control plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxyworker.contract import Ack, Heartbeat, Secret, SessionGrant, TlsFacts, UploadTicket, Welcome


class Link:
    """Signs the worker on, keeps it signed on, and asks the control plane's questions."""

    #: Called with the session ids to end (empty: all) and the reason.
    on_revoke: Callable[[Sequence[str], str], None]
    #: Called at every sign-on, before `connected` is set.
    on_welcome: Callable[[Welcome], None]
    #: Asked for what to tell at each heartbeat.
    vitals: Callable[[], Heartbeat]

    @property
    def connected(self) -> bool:
        """The worker is signed on now."""
        raise NotImplementedError

    async def run(self) -> None:
        """Connect, sign on, serve; and again with exponential back-off and full jitter, until cancelled."""
        raise NotImplementedError

    async def open_session(
        self, *, protocol: str, target: str, credential: Secret, client_address: str, client_name: str, tls: TlsFacts
    ) -> SessionGrant:
        """Have the control plane authenticate and authorise a connection. Waits 10 s at most.

        Raises `SessionRefused` or `LinkUnavailable`.
        """
        raise NotImplementedError

    def session_closed(self, session_id: str, reason: str) -> None:
        """Tell the control plane that the session has ended; silently dropped when there is no link."""
        raise NotImplementedError

    async def append_records(
        self, *, journal_id: str, first_seq: int, chain_before: bytes, chain_after: bytes, records: list[bytes]
    ) -> Ack:
        """Hand over a batch of the journal. Raises `LinkUnavailable`."""
        raise NotImplementedError

    async def request_upload(self, *, session_id: str, index: int, sha256: bytes, size_bytes: int) -> UploadTicket:
        """Ask where a content segment may go. Raises `UploadRefused` or `LinkUnavailable`."""
        raise NotImplementedError
