"""What processes left that this worker runs no more: their journals are shipped to their end, then removed.

A process that there still is takes up its own.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import structlog

from proxyworker.config import Config, process_folders
from proxyworker.contract import Welcome
from proxyworker.disk import sync_folder
from proxyworker.journal import Journal, JournalError
from proxyworker.journal.shipper import Shipper
from proxyworker.link import Link
from proxyworker.net.tasks import spawn

#: How often it is looked whether all of a journal has been taken.
LOOK_SECONDS: Final = 0.5
#: Of a folder that is only to be removed.
_SHIPPED: Final = ".shipped"

_log = structlog.get_logger(__name__)


class Adoption:
    """All that was left. `run` ends when nothing is left any more, or nothing that can be shipped."""

    def __init__(self, config: Config, *, link: Link, client: httpx.AsyncClient) -> None:
        self._config = config
        self._link = link
        self._client = client
        self._journals: dict[Path, Journal] = {}
        self._on_welcome: list[Callable[[Welcome], None]] = []

    @property
    def unacknowledged_bytes(self) -> int:
        """What the control plane, or storage, does not have yet."""
        return sum(journal.unacknowledged_bytes for journal in self._journals.values())

    def welcomed(self, welcome: Welcome) -> None:
        """The link is up, and the control plane holds this much."""
        for told in self._on_welcome:
            told(welcome)

    async def run(self) -> None:
        """Until cancelled, at most. A journal that can't be shipped stays where it is, and the log says so."""
        await asyncio.to_thread(self._remove_shipped)
        async with asyncio.TaskGroup() as group:
            for folder in _left_by_others(self._config):
                group.create_task(self._adopt(folder), name=f"adopt {folder.name}")

    async def _adopt(self, folder: Path) -> None:
        try:
            journal = Journal.open(
                folder / "journal",
                worker=self._config.name,
                bound_bytes=self._config.journal_bound_bytes,
                clock=time.time,
                loop=asyncio.get_running_loop(),
            )
        except JournalError as error:
            _log.error("journal_not_adopted", folder=folder.name, problem=str(error))
            return
        self._journals[folder] = journal
        try:
            is_shipped = await self._ship(journal, folder)
        finally:
            del self._journals[folder]
            if journal.failed is None:
                await journal.close()
        if is_shipped:
            await asyncio.to_thread(_remove, folder)
            _log.info("journal_adopted", folder=folder.name, journal=journal.journal_id, seq=journal.seq)

    async def _ship(self, journal: Journal, folder: Path) -> bool:
        """Return when the control plane and storage have all of it; False if that can't be."""
        origin = self._config.link_origin
        shipper = Shipper(journal, link=self._link, spool_folder=folder / "spool", client=self._client, origin=origin)
        self._on_welcome.append(shipper.welcomed)
        shipping = spawn(f"ship {folder.name}", shipper.run())
        try:
            while journal.unacknowledged_bytes:
                if shipping.done() or journal.failed is not None:
                    return False
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._on_welcome.remove(shipper.welcomed)
            shipping.cancel()
            await asyncio.gather(shipping, return_exceptions=True)
        return True

    def _remove_shipped(self) -> None:
        for folder in self._config.state_folder.glob(f"*{_SHIPPED}"):
            shutil.rmtree(folder)


def _left_by_others(config: Config) -> Iterator[Path]:
    for number, folder in process_folders(config.state_folder):
        if number >= config.processes:
            yield folder


def _remove(folder: Path) -> None:
    """By way of another name: half a folder would be half a journal. Raises `OSError`."""
    shipped = folder.with_name(folder.name + _SHIPPED)
    folder.rename(shipped)
    sync_folder(folder.parent)
    shutil.rmtree(shipped)
