"""Readers and writers of messages, by the vectors."""

from __future__ import annotations

from itertools import chain

import pytest

from proxyworker.wire.postgres import backend, startup
from proxyworker.wire.postgres.errors import MalformedMessage, MalformedStartup
from tests.vectors.postgres import BACKEND, FRONTEND, MALFORMED, MALFORMED_STARTUP, STARTUP, Reader, Vector

VECTORS = dict(chain(FRONTEND.items(), BACKEND.items(), STARTUP.items()))


@pytest.mark.parametrize("vector", [pytest.param(v, id=k) for k, v in VECTORS.items() if v.read is not None])
def test_what_is_well_formed_is_read(vector: Vector) -> None:
    assert vector.read is not None
    assert vector.read(vector.data) == vector.value


@pytest.mark.parametrize("vector", [pytest.param(v, id=k) for k, v in VECTORS.items() if v.write is not None])
def test_what_is_said_is_written_as_documented(vector: Vector) -> None:
    assert vector.write is not None
    assert vector.write() == vector.data


@pytest.mark.parametrize("vector", [pytest.param(v, id=k) for k, v in STARTUP.items()])
def test_the_header_of_a_first_packet_gives_its_length(vector: Vector) -> None:
    assert startup.startup_length(vector.data[: startup.STARTUP_HEADER_BYTES]) == len(vector.data)


@pytest.mark.parametrize(("data", "read"), [pytest.param(*v, id=k) for k, v in MALFORMED.items()])
def test_a_malformed_message_is_refused_without_quoting_it(data: bytes, read: Reader) -> None:
    with pytest.raises(MalformedMessage) as caught:
        read(data)
    assert caught.value.problem == str(caught.value)
    assert "s1" not in caught.value.problem


@pytest.mark.parametrize("vector", [pytest.param(v, id=k) for k, v in FRONTEND.items() if v.read is not None])
def test_a_message_that_is_cut_anywhere_is_a_value_or_malformed(vector: Vector) -> None:
    assert vector.read is not None
    refused = 0
    for size in range(5, len(vector.data)):
        try:
            vector.read(vector.data[:size])
        except MalformedMessage:
            refused += 1
    # A function call's arguments are the target's to check.
    assert refused == len(vector.data) - 5 or vector.data[:1] == b"F"


@pytest.mark.parametrize("data", [pytest.param(v, id=k) for k, v in MALFORMED_STARTUP.items()])
def test_a_malformed_first_packet_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedStartup):
        startup.parse_startup(data[: startup.startup_length(data[: startup.STARTUP_HEADER_BYTES])])


def test_the_longest_startup_packet_is_read() -> None:
    value = "x" * (startup.MAX_STARTUP_BYTES - 8 - len("user\x00\x00\x00"))
    packet = startup.build_startup({"user": value})
    assert len(packet) == startup.MAX_STARTUP_BYTES
    assert startup.startup_length(packet) == startup.MAX_STARTUP_BYTES
    message = startup.parse_startup(packet)
    assert isinstance(message, startup.StartupMessage)
    assert message.parameters == {"user": value}
    with pytest.raises(ValueError, match="over 10000 bytes"):
        startup.build_startup({"user": value + "x"})


@pytest.mark.parametrize("parameters", [{"us\x00er": "a"}, {"user": "a\x00database\x00other"}])
def test_no_startup_parameter_smuggles_another(parameters: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        startup.build_startup(parameters)


def test_what_we_say_can_not_smuggle_a_field() -> None:
    data = backend.build_error(severity="ERROR", code="42501", message="no\x00C00000", hint="a\x00b")
    error = backend.parse_error(data, 0, len(data))
    assert (error.code, error.message) == ("42501", "noC00000")


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        ("SELECT 3", 3),
        ("INSERT 0 5", 5),
        ("CREATE TABLE", 0),
        ("", 0),
        ("SELECT -3", 0),
        ("SELECT ٣", 0),
        ("SELECT " + "9" * 15, 10**15 - 1),
        ("SELECT " + "9" * 16, 0),
        ("SELECT " + "9" * 5_000, 0),
    ],
)
def test_the_rows_of_a_tag_are_its_last_number(tag: str, rows: int) -> None:
    assert backend.rows_of_tag(tag) == rows
