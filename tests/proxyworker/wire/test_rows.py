"""Values of rows: those that a plain reading finds, compiled or not."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyworker.wire.postgres import rows
from proxyworker.wire.postgres.scan import FrameError

Row = list[bytes | None]
VALUES = st.one_of(st.none(), st.binary(max_size=3), st.sampled_from([b"a", b"b"]))
ROWS = st.lists(st.lists(VALUES, max_size=4), max_size=12)


def interpreted() -> ModuleType:
    """rows.py by its source, whether or not a compiled form stands beside it."""
    source = Path(rows.__file__).with_name("rows.py")
    loader = importlib.machinery.SourceFileLoader("interpreted_rows", str(source))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


BOTH = pytest.mark.parametrize("module", [rows, interpreted()], ids=["installed", "interpreted"])


def data_row(row: Row) -> bytes:
    """A DataRow."""
    cells = [b"\xff\xff\xff\xff" if cell is None else struct.pack("!I", len(cell)) + cell for cell in row]
    body = struct.pack("!H", len(row)) + b"".join(cells)
    return b"D" + struct.pack("!I", len(body) + 4) + body


@BOTH
@given(
    table=ROWS, wanted=st.binary(max_size=4), known=st.sets(st.binary(max_size=1), max_size=3), cut=st.integers(0, 9)
)
def test_the_values_are_those_of_a_plain_reading(
    module: ModuleType, table: list[Row], wanted: bytes, known: set[bytes], cut: int
) -> None:
    mask = bytes(byte % 2 for byte in wanted)
    frames = [data_row(row) for row in table]
    data = b"??" + b"".join(frames)
    end = max(2, len(data) - cut)
    expected: dict[bytes, int] = {}
    at = 2
    whole = 0
    for row, frame in zip(table, frames, strict=True):
        if at + len(frame) > end:
            break
        whole += 1
        for column, cell in enumerate(row):
            if cell is not None and column < len(mask) and mask[column] and cell not in known:
                expected.setdefault(cell, at)
        at += len(frame)
    assert module.new_values(data, 2, end, mask, known) == [(place, value) for value, place in expected.items()]
    assert module.whole_rows(data, 2, end, 100) == (whole, at)
    assert module.whole_rows(data, 2, end, 0) == (0, 2)


@BOTH
@given(junk=st.binary(max_size=40))
def test_what_is_no_row_is_refused_or_left_alone(module: ModuleType, junk: bytes) -> None:
    data = b"D" + struct.pack("!I", len(junk) + 4) + junk
    try:
        found = module.new_values(data, 0, len(data), b"\x01" * 4, set())
    except FrameError:
        return
    assert all(value in junk for _, value in found)
