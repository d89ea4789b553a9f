"""What the control plane tells a worker of its own accord, over one link.

At each wake-up, and every `POLL_SECONDS`, a round: may this worker still serve, which sessions have to end, by which
policy are they decided, what was decided of the operations that it holds. The rows say; a wake-up only makes haste.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import structlog
from channels.layers import get_channel_layer
from django.utils import timezone
from redis.exceptions import RedisError

from proxyworker.contract import FromControlPlane, Heartbeat, PolicyChanged, Revoke
from sessions.access import has_open_sessions, standing_of
from sessions.actions import worker_group
from sessions.approving import news_of
from sessions.signing_on import SignedOn
from sessions.threads import in_scope, in_thread
from targets.models import SILENT_AFTER_SECONDS
from targets.processes.access import is_current
from targets.processes.actions import let_go, note_sign_of_life

log = structlog.get_logger(__name__)

#: Wake-ups get lost; what they would have said is seen this much later.
POLL_SECONDS: Final = 5.0
#: Between two rounds that nobody woke: what has lapsed is asked for again this soon when the database didn't answer.
LEAST_ROUND_SECONDS: Final = 0.2
#: A worker that was withdrawn may say how its sessions ended, for so long: its journal has that within milliseconds.
DISMISSED_SECONDS: Final = 5.0

#: WebSocket close codes (RFC 6455, 7.4.2: 4000 to 4999 are private). The worker reconnects after each.
CLOSE_REFUSED: Final = 4401
CLOSE_SILENT: Final = 4409
CLOSE_REPLACED: Final = 4410


class Socket(Protocol):
    """What is asked of the link. `heard_at`: when the worker last said something, by the loop's clock."""

    heard_at: float
    is_closing: bool

    async def say(self, frame: FromControlPlane) -> None:
        """One frame out; nothing once the link is closing."""

    async def fault(self, fault: str, code: int) -> None:
        """Close the link, with one line in the log."""


class Pushes:
    """Of one link that is signed on. `listen` and `watch` run until the link closes, as tasks of the link."""

    def __init__(self, signed_on: SignedOn, socket: Socket) -> None:
        #: Whether nothing but records is taken from the worker any more.
        self.is_dismissed = False
        self.worker = signed_on.worker
        self._public_key = signed_on.public_key
        self._link_id = signed_on.link_id
        self._socket = socket
        self._woken = asyncio.Event()
        self._recorded = asyncio.Event()
        self._revoked: set[str] = set()
        #: Approvals that the gate was told are pending, and previews that it was asked for, at which time.
        self._held: set[UUID] = set()
        self._previews_asked: set[tuple[UUID, datetime]] = set()
        self._lapses_at: datetime | None = None
        #: What the worker was told last. Whatever was in force while it was away, it is told first of all.
        #: Version and labels of the policy that was pushed last.
        self._policy_told: tuple[str, dict[str, dict[str, tuple[str, ...]]]] = "", {}

    def hold(self, approval_id: UUID) -> None:
        """The gate was told that this request is pending: it is to hear what is decided."""
        self._held.add(approval_id)
        self._woken.set()

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """The worker says how it is."""
        note = in_scope(self.worker, note_sign_of_life)
        sessions, journal_bytes = heartbeat.sessions, heartbeat.journal_bytes
        await in_thread(
            note,
            self.worker.id,
            link_id=self._link_id,
            now=timezone.now(),
            reported_sessions=sessions,
            reported_journal_bytes=journal_bytes,
        )

    async def closed(self) -> None:
        """The link is no more."""
        try:
            await in_thread(in_scope(self.worker, let_go), self.worker.id, link_id=self._link_id)
        except Exception:  # the row then says so by its age
            log.exception("link_not_let_go", worker=self.worker.name)

    def recorded(self) -> None:
        """The worker has said something of how its sessions stand."""
        self._recorded.set()

    async def listen(self) -> None:
        """Have wake-ups start a round of `watch`, and start one whenever listening begins."""
        layer, group = get_channel_layer(), worker_group(self.worker.id)
        while not self._socket.is_closing:
            try:
                channel = await layer.new_channel()
                try:
                    await layer.group_add(group, channel)
                    self._woken.set()
                    while not self._socket.is_closing:
                        await layer.receive(channel)
                        self._woken.set()
                finally:
                    await layer.group_discard(group, channel)
            except (RedisError, OSError) as error:
                log.warning("wake_ups_interrupted", worker=self.worker.name, error=type(error).__name__)
                await asyncio.sleep(POLL_SECONDS)

    async def watch(self) -> None:
        """Round after round."""
        loop = asyncio.get_running_loop()
        while not self._socket.is_closing:
            if loop.time() - self._socket.heard_at > SILENT_AFTER_SECONDS:
                await self._socket.fault("silent", CLOSE_SILENT)
                return
            try:
                await self._round()
            except Exception:  # the database may be back at the next round
                log.exception("watch_failed", worker=self.worker.name)
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

    async def _round(self) -> None:
        worker = self.worker
        if not await in_thread(in_scope(worker, is_current), worker.id, self._link_id):
            await self._socket.fault("a newer link of the same process is there", CLOSE_REPLACED)
            return
        standing = await in_thread(
            in_scope(worker, standing_of), worker.id, public_key=self._public_key, process=worker.process
        )
        if not standing.is_welcome:
            await self._dismiss()
            return
        fresh = {
            session_id: reason for session_id, reason in standing.to_end.items() if session_id not in self._revoked
        }
        self._revoked = set(standing.to_end)
        for reason in set(fresh.values()):
            session_ids = tuple(session_id for session_id, why in fresh.items() if why == reason)
            await self._socket.say(Revoke(session_ids=session_ids, reason=reason))
        if standing.policy is not None and (standing.policy.version, standing.policy.labelled) != self._policy_told:
            self._policy_told = standing.policy.version, standing.policy.labelled
            await self._socket.say(PolicyChanged(policy=standing.policy))
        await self._push_approvals()

    async def _dismiss(self) -> None:
        """Have all sessions end, take the records of it for `DISMISSED_SECONDS`, and close."""
        worker = self.worker
        self.is_dismissed = True
        await self._socket.say(Revoke(session_ids=(), reason="this worker was withdrawn"))
        with suppress(TimeoutError):
            async with asyncio.timeout(DISMISSED_SECONDS):
                while await in_thread(in_scope(worker, has_open_sessions), worker.id, process=worker.process):
                    await self._recorded.wait()
                    self._recorded.clear()
        await self._socket.fault("no longer welcome", CLOSE_REFUSED)

    async def _push_approvals(self) -> None:
        held = frozenset(self._held)
        news = await in_thread(news_of, self.worker, held, now=timezone.now())
        self._held = (self._held - held) | news.held  # others may have come meanwhile
        self._lapses_at = news.next_at
        for decided in news.decided:
            await self._socket.say(decided)
        for asked, preview in news.previews.items():
            if asked not in self._previews_asked:
                await self._socket.say(preview)
        self._previews_asked = set(news.previews)
