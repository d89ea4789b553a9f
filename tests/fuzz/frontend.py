"""A client's messages: each parser gives a value whose texts are pieces of the message, or `MalformedMessage`."""

from __future__ import annotations

import contextlib

from proxyworker.wire.postgres import frontend
from proxyworker.wire.postgres.errors import MalformedMessage
from proxyworker.wire.postgres.scan import HEADER_BYTES
from tests.fuzz.run import fuzz

PARSERS = (
    frontend.parse_query,
    frontend.parse_parse,
    frontend.parse_bind,
    frontend.parse_execute,
    frontend.parse_named,
    frontend.parse_function_call,
)
#: Behind the message: a parser that reads beyond its end gets to see it.
BEHIND = b"beyond\x00\x00\x00\x00"


def one_input(data: bytes) -> None:
    """`data` is a message's body."""
    frame = b"?" + (len(data) + 4).to_bytes(4, "big") + data
    for parse in PARSERS:
        try:
            value = parse(frame + BEHIND, 0, len(frame))
        except MalformedMessage:
            continue
        assert value == parse(frame, 0, len(frame))
        if isinstance(value, frontend.Bind):
            taken = len(value.portal) + len(value.statement) + sum(len(one or b"") for one, _ in value.values)
            assert taken <= len(data)
    with contextlib.suppress(MalformedMessage):
        assert frontend.parse_password(frame) + b"\x00" == frame[HEADER_BYTES:]
    with contextlib.suppress(MalformedMessage):
        mechanism, response = frontend.parse_sasl_initial(frame)
        assert mechanism + b"\x00" + len(response).to_bytes(4, "big") + response == frame[HEADER_BYTES:]


if __name__ == "__main__":
    fuzz(one_input)
