"""A side is read only while nothing speaks against it."""

from __future__ import annotations

import asyncio

import pytest

from proxyworker.gate.forward import Pressure, Valve


class Reading(asyncio.ReadTransport):
    """Notes what it is told, and refuses to be told twice."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


@pytest.fixture
def transport() -> Reading:
    return Reading()


def test_the_side_is_read_again_when_the_last_pressure_is_gone(transport: Reading) -> None:
    valve = Valve(transport)
    valve.set(Pressure.RELEASE, on=True)
    valve.set(Pressure.RELEASE, on=True)
    valve.set(Pressure.CONTENT, on=True)
    valve.set(Pressure.RELEASE, on=False)
    assert (transport.told, valve.is_open) == (["pause"], False)
    valve.set(Pressure.CONTENT, on=False)
    valve.set(Pressure.CONTENT, on=False)
    assert (transport.told, valve.is_open) == (["pause", "resume"], True)


def test_several_pressures_go_at_once(transport: Reading) -> None:
    valve = Valve(transport)
    for pressure in (Pressure.TRANSPORT, Pressure.RELEASE):
        valve.set(pressure, on=True)
    valve.set(Pressure.TRANSPORT | Pressure.RELEASE, on=False)
    assert (transport.told, valve.is_open) == (["pause", "resume"], True)


def test_a_transport_that_is_closing_is_left_alone(transport: Reading) -> None:
    valve = Valve(transport)
    transport.closing = True
    valve.set(Pressure.BARRIER, on=True)
    valve.set(Pressure.BARRIER, on=False)
    assert transport.told == []
