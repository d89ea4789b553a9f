"""Towards the target, and back-pressure both ways: a peer that does not read must not make the gate's memory grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Final

#: A transport's write buffer: above it the other side is not read. Two or three socket reads' worth.
WRITE_HIGH_BYTES: Final = 512 * 1024
WRITE_LOW_BYTES: Final = 128 * 1024


class Pressure(IntEnum):
    """Why a side is not being read: bits of a set. No IntFlag, whose operators cost a microsecond each."""

    #: The other side's transport has more than it can send.
    TRANSPORT = 1
    #: Too much waits for its record to become durable.
    RELEASE = 2
    #: Content waits to be digested and compressed.
    CONTENT = 4
    #: Too many operations wait for the target's answer.
    PIPELINE = 8
    #: What comes next can't be understood before an answer that is under way.
    BARRIER = 16
    #: What is left of a limit isn't known.
    BUDGET = 32


class Valve:
    """Reads one side only while nothing speaks against it."""

    def __init__(self, transport: asyncio.ReadTransport) -> None:
        self._transport = transport
        self._against = 0

    @property
    def is_open(self) -> bool:
        """Whether the side is being read."""
        return not self._against

    def set(self, pressure: int, *, on: bool) -> None:
        """This pressure, or these, are there, or are gone."""
        before = self._against
        after = before | pressure if on else before & ~pressure
        if after == before:
            return
        self._against = after
        if bool(before) == bool(after) or self._transport.is_closing():
            return
        if after:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def bound_write_buffer(transport: asyncio.WriteTransport) -> None:
    """Have the transport say `pause_writing` early enough."""
    transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)


class Side(asyncio.Protocol):
    """asyncio's callbacks for one side, handed to the session."""

    def __init__(
        self,
        *,
        data: Callable[[bytes], None],
        lost: Callable[[], None],
        other: Callable[[], Valve],
    ) -> None:
        # The loop calls the session's own method: one call less for every read.
        self.data_received = data  # type: ignore[assignment,method-assign]
        self._lost = lost
        self._other = other

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost()

    def pause_writing(self) -> None:
        self._other().set(Pressure.TRANSPORT, on=True)

    def resume_writing(self) -> None:
        self._other().set(Pressure.TRANSPORT, on=False)
