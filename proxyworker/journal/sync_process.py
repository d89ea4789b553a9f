"""The process that waits for the disk: `sync_process.py SOCKET_FD PRIOR_DURABLE_OFFSET`. See `syncing`.

It gets descriptors (ADD) and requests (SYNC and the position written by then) over a socket, and answers each request
with that position, how many older files it is done with, and an error number or 0. It ends with the socket, or after
an error. Imports the standard library alone: it runs without the project on its path.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections import deque
from typing import Final

ADD: Final = b"A"
SYNC: Final = b"S"
#: Position, files retired, error number.
ANSWER: Final = struct.Struct("<QIi")


def sync_files(descriptors: deque[int], prior_durable_offset: int) -> int:
    """Sync these files, oldest first, and close all but the last; returns how many. Raises `OSError`.

    A file whose forerunner is on disk says so in its header, so that recovery need not doubt the forerunner's end.
    """
    retired = 0
    while True:
        os.fdatasync(descriptors[0])
        if len(descriptors) == 1:
            return retired
        os.close(descriptors.popleft())
        retired += 1
        os.pwrite(descriptors[0], b"\x01", prior_durable_offset)


def main(descriptor: int, prior_durable_offset: int) -> None:
    """Serve until the worker has gone."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    descriptors: deque[int] = deque()
    with socket.socket(fileno=descriptor) as worker:
        while True:
            try:
                message, received, _, _ = socket.recv_fds(worker, 64, 1)
            except ConnectionResetError:  # killed with an answer unread
                return
            if not message:
                return
            descriptors.extend(received)
            if message[:1] != SYNC:
                continue
            (end,) = struct.unpack_from("<Q", message, 1)
            try:
                answer = ANSWER.pack(end, sync_files(descriptors, prior_durable_offset), 0)
            except OSError as error:
                worker.send(ANSWER.pack(end, 0, error.errno or 5))
                return
            worker.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
