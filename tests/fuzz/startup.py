"""A client's first packet: a value that means the same when it is written again, or `MalformedStartup`."""

from __future__ import annotations

from proxyworker.wire.postgres import startup
from proxyworker.wire.postgres.errors import MalformedStartup
from tests.fuzz.run import fuzz


def one_input(data: bytes) -> None:
    """`data` is what a client sends."""
    if len(data) < startup.STARTUP_HEADER_BYTES:
        return
    try:
        length = startup.startup_length(data[: startup.STARTUP_HEADER_BYTES])
        assert startup.STARTUP_HEADER_BYTES <= length <= startup.MAX_STARTUP_BYTES
        if length > len(data):
            return
        packet = startup.parse_startup(data[:length])
    except MalformedStartup:
        return
    match packet:
        case startup.CancelRequest():
            assert startup.build_cancel_request(packet.process_id, packet.secret) == data[:length]
        case startup.StartupMessage():
            built = startup.parse_startup(startup.build_startup(packet.parameters))
            assert isinstance(built, startup.StartupMessage)
            assert built.parameters == packet.parameters


if __name__ == "__main__":
    fuzz(one_input)
