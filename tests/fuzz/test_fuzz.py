"""Every fuzz target, for a moment, by hypothesis: from anything, and from well-formed bytes that are damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyworker.contract import (
    AppendRecords,
    CloseSession,
    Heartbeat,
    OpenSession,
    RequestUpload,
    RequestVerifier,
    Secret,
    TlsFacts,
    encode,
)
from tests.fuzz import backend, contract, frames, frontend, saml, scram, startup, statements
from tests.proxyworker.records import closed, intent, opened, outcome, session_id
from tests.vectors import postgres

ALICE = session_id(1)

CONTRACT = [
    encode(Heartbeat(sessions=1, journal_bytes=2)),
    encode(CloseSession(ALICE, "over")),
    encode(RequestUpload(1, ALICE, 0, bytes(32), 100)),
    encode(OpenSession(1, "postgres", "shop", Secret("ng_x"), "127.0.0.1:5", "psql", TlsFacts())),
    encode(RequestVerifier(1, "0123456789abcdef", "127.0.0.1:5")),
    encode(AppendRecords(1, ALICE, 1, bytes(32), bytes(32), [encode(intent(ALICE, 1))])),
    encode(opened(ALICE)),
    encode(intent(ALICE, 1)),
    encode(outcome(ALICE, 1, b"row")),
    encode(closed(ALICE, 1)),
]


def bodies(vectors: dict[str, postgres.Vector]) -> list[bytes]:
    malformed = [data[5:] for data, _ in postgres.MALFORMED.values()]
    return [vector.data[5:] for vector in vectors.values()] + malformed


STREAM = b"".join(vector.data for vector in chain(postgres.FRONTEND.values(), postgres.BACKEND.values()))
TARGETS: dict[str, tuple[Callable[[bytes], None], Sequence[bytes]]] = {
    "frontend": (frontend.one_input, bodies(postgres.FRONTEND)),
    "backend": (backend.one_input, bodies(postgres.BACKEND)),
    "startup": (
        startup.one_input,
        [*(vector.data for vector in postgres.STARTUP.values()), *postgres.MALFORMED_STARTUP.values()],
    ),
    "frames": (frames.one_input, [bytes((size,)) + STREAM for size in (0, 6, 99, 255)]),
    "contract": (contract.one_input, CONTRACT),
    "scram": (scram.one_input, scram.SEEDS),
    "saml": (saml.one_input, saml.SEEDS),
    "statements": (statements.one_input, statements.SEEDS),
}
targets = pytest.mark.parametrize(("one_input", "seeds"), TARGETS.values(), ids=TARGETS)

#: Where, modulo the length; how much is taken away there; what comes there instead.
Damage = tuple[int, int, bytes]
damages: st.SearchStrategy[list[Damage]] = st.lists(
    st.tuples(st.integers(0, 5_000), st.integers(0, 4), st.binary(max_size=4)), max_size=4
)


def damaged(data: bytes, damage: Sequence[Damage]) -> bytes:
    for at, gone, instead in damage:
        place = at % (len(data) + 1)
        data = data[:place] + instead + data[place + gone :]
    return data


@targets
def test_anything_is_a_value_or_the_parsers_own_error(
    one_input: Callable[[bytes], None], seeds: Sequence[bytes]
) -> None:
    @settings(max_examples=200)
    @given(st.binary(max_size=400))
    def run(data: bytes) -> None:
        one_input(data)

    run()


@targets
def test_damaged_messages_are_a_value_or_the_parsers_own_error(
    one_input: Callable[[bytes], None], seeds: Sequence[bytes]
) -> None:
    @settings(max_examples=300)
    @given(st.sampled_from(seeds), damages)
    def run(data: bytes, damage: Sequence[Damage]) -> None:
        one_input(damaged(data, damage))

    run()


@targets
def test_the_seeds_themselves_pass(one_input: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    for seed in seeds:
        one_input(seed)


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1t", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_deep_and_endless_frames_are_refused(nest: bytes) -> None:
    contract.one_input(nest * 100_000)
    contract.one_input(b"\x82\xa1t\xa9Heartbeat\xa8sessions" + nest * 100_000)


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_runs_as_a_program_or_says_what_is_missing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{name}", "-runs=1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or "atheris is not installed" in done.stderr
