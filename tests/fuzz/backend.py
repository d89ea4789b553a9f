"""A server's messages: each parser gives a value, or `MalformedMessage`; a tag's rows fit a record."""

from __future__ import annotations

from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.errors import MalformedMessage
from tests.fuzz.run import fuzz

PARSERS = (backend.parse_error, backend.parse_columns, backend.parse_parameter_status, backend.parse_backend_key)
BEHIND = b"beyond\x00\x00\x00\x00"


def one_input(data: bytes) -> None:
    """`data` is a message's body."""
    frame = b"?" + (len(data) + 4).to_bytes(4, "big") + data
    for parse in PARSERS:
        try:
            assert parse(frame + BEHIND, 0, len(frame)) == parse(frame, 0, len(frame))
        except MalformedMessage:
            continue
    try:
        tag = backend.parse_command_tag(frame, 0, len(frame))
        assert 0 <= backend.rows_of_tag(tag) < 2**63
    except MalformedMessage:
        pass
    try:
        code, body = backend.parse_authentication(frame)
        assert code.to_bytes(4, "big") + body == data
        assert all(backend.parse_sasl_mechanisms(body))
    except MalformedMessage:
        pass


if __name__ == "__main__":
    fuzz(one_input)
