"""What daphne takes in, with a daphne that serves an application of two lines."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controlplane.intake import MAX_BODY_BYTES
from controlplane.supervisor.embedded import free_port

SERVED = """
from controlplane.intake import at_the_root, bound_bodies

bound_bodies(lambda path: 3 * 1024 * 1024 if path == "/ticket/" else 0)


async def echo(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['root_path']}{scope['path']} {size}".encode()})


application = at_the_root(echo)
"""
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where it listens."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "served.py").write_text(SERVED)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "served:application"]
    with (folder / "log").open("wb") as log:
        daphne = subprocess.Popen(command, cwd=folder, env={"PYTHONPATH": f"{root}:{folder}"}, stderr=log)
    try:
        while b"Listening on TCP" not in (folder / "log").read_bytes():
            with pytest.raises(subprocess.TimeoutExpired):
                daphne.wait(0.1)
        yield port
    finally:
        daphne.terminate()
        daphne.wait(PATIENCE_SECONDS)


def put(port: int, path: str, size: int) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("PUT", path, body=bytes(size))
        return connection.getresponse().read().decode()


def test_what_is_within_the_bound_arrives_whole(port: int) -> None:
    assert put(port, "/", 0) == "/ 0"
    assert put(port, "/", MAX_BODY_BYTES) == f"/ {MAX_BODY_BYTES}"
    assert put(port, "/ticket/", MAX_BODY_BYTES + 1) == f"/ticket/ {MAX_BODY_BYTES + 1}"


def test_what_is_announced_as_longer_is_refused_before_it_comes(port: int) -> None:
    for path, size in (("/", MAX_BODY_BYTES + 1), ("/ticket/", 3 * 1024 * 1024 + 1), ("/", 10**15)):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as raw:
            raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
            assert raw.makefile("rb").read().startswith(b"HTTP/1.1 413 ")


def test_what_becomes_longer_without_saying_so_is_cut_off(port: int) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        # The kernels hold some megabytes between the two.
        with pytest.raises(OSError):  # noqa: PT011 - reset, or a broken pipe
            for _ in range(10_000):
                raw.sendall(piece)


def test_a_client_puts_nothing_in_front_of_addresses(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("GET", "/admin/", headers={"Daphne-Root-Path": ".evil.example"})
        assert connection.getresponse().read() == b"/admin/ 0"
