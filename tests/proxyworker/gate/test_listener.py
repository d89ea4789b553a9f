"""Taking connections, with a bound and a deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxyworker.gate import listener as listener_module
from proxyworker.gate.listener import Listener


class Door:
    """Admits a connection when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting: asyncio.Queue[str] = asyncio.Queue()
        self.error: Exception | None = None
        self.listener = Listener("test", self.admit)

    async def admit(self, connection: socket.socket, address: str) -> None:
        assert not connection.getblocking()
        self.waiting.put_nowait(address)
        if self.error is not None:
            raise self.error
        await self.opened.wait()
        await asyncio.get_running_loop().sock_sendall(connection, b"in")
        connection.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.listener.address)


async def read_all(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    reader, writer = connection
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    await made.listener.open("127.0.0.1", 0)
    yield made
    await made.listener.close()


async def test_a_connection_is_admitted_with_its_address(door: Door) -> None:
    door.opened.set()
    connection = await door.connect()
    host, port = connection[1].get_extra_info("sockname")
    assert await read_all(connection) == b"in"
    assert await door.waiting.get() == f"{host}:{port}"


async def test_connections_beyond_the_bound_are_closed_and_places_come_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "MAX_WAITING", 2)
    waiting = [await door.connect() for _ in range(2)]
    for _ in waiting:
        await door.waiting.get()
    assert await read_all(await door.connect()) == b""
    assert door.waiting.empty()
    door.opened.set()
    assert [await read_all(connection) for connection in waiting] == [b"in", b"in"]
    assert await read_all(await door.connect()) == b"in"


async def test_who_takes_too_long_is_closed(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "ADMISSION_SECONDS", 0.01)
    assert await read_all(await door.connect()) == b""
    await door.waiting.get()


async def test_who_breaks_while_being_admitted_is_closed_and_others_come_in(door: Door) -> None:
    door.error = ConnectionResetError(104, "Connection reset by peer")
    assert await read_all(await door.connect()) == b""
    door.error = None
    door.opened.set()
    assert await read_all(await door.connect()) == b"in"


async def test_once_closed_nobody_connects_and_the_address_is_gone() -> None:
    door = Door()
    with pytest.raises(RuntimeError, match="not listening"):
        _ = door.listener.address
    await door.listener.open("127.0.0.1", 0)
    address = door.listener.address
    await door.listener.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_an_address_that_is_not_ours_can_not_be_listened_on() -> None:
    with pytest.raises(OSError, match="assign"):
        await Door().listener.open("192.0.2.1", 0)
