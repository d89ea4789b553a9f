"""Nothing leaves before its record is durable, and everything leaves in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyworker.gate.release import HELD_HIGH_BYTES, HELD_LOW_BYTES, Held, ReleaseQueue
from tests.proxyworker.gate.conftest import DurableByHand

if TYPE_CHECKING:
    from proxyworker.journal import Journal


class Out:
    """A queue, what has left it, and what it said of its level."""

    def __init__(self, disk: DurableByHand) -> None:
        self.left: list[bytes] = []
        self.levels: list[bool] = []
        self.queue = ReleaseQueue(cast("Journal", disk), write=self.left.append, on_level=self.levels.append)


@pytest.fixture
def out(disk: DurableByHand) -> Out:
    return Out(disk)


def test_what_is_durable_already_leaves_at_once(out: Out, disk: DurableByHand) -> None:
    disk.sync(10)
    assert out.queue.put(b"a", 10) is None
    assert out.left == [b"a"]


def test_bytes_wait_for_their_position(out: Out, disk: DurableByHand) -> None:
    assert out.queue.put(b"a", 10) is not None
    disk.sync(9)
    assert out.left == []
    disk.sync(10)
    assert out.left == [b"a"]


def test_what_is_durable_waits_for_what_is_before_it(out: Out, disk: DurableByHand) -> None:
    out.queue.put(b"a", 10)
    out.queue.put(b"b", 0)
    out.queue.put(b"c", 5)
    disk.sync(5)
    assert out.left == []
    disk.sync(10)
    assert out.left == [b"a", b"b", b"c"]


def test_bytes_wait_for_outcomes_that_have_no_position_yet(out: Out, disk: DurableByHand) -> None:
    held = out.queue.put(b"a", 0, unrecorded=2)
    out.queue.put(b"b", 0)
    assert held is not None
    disk.sync(100)
    assert out.left == []
    out.queue.settle(held, 120)
    disk.sync(150)
    assert out.left == []
    out.queue.settle(held, 110)
    disk.sync()
    assert out.left == [b"a", b"b"]


def test_a_settled_outcome_still_has_to_become_durable(out: Out, disk: DurableByHand) -> None:
    held = out.queue.put(b"a", 0, unrecorded=1)
    assert held is not None
    out.queue.settle(held, 20)
    disk.sync(19)
    assert out.left == []
    disk.sync(20)
    assert out.left == [b"a"]


def test_settled_behind_another_waits_for_it(out: Out, disk: DurableByHand) -> None:
    first = out.queue.put(b"a", 0, unrecorded=1)
    second = out.queue.put(b"b", 0, unrecorded=1)
    assert first is not None
    assert second is not None
    out.queue.settle(second, 5)
    disk.sync(10)
    assert out.left == []
    out.queue.settle(first, 7)
    disk.sync()
    assert out.left == [b"a", b"b"]


def test_the_level_is_told_once_up_and_once_down(out: Out, disk: DurableByHand) -> None:
    out.queue.put(bytes(HELD_HIGH_BYTES), 1)
    assert out.levels == []
    out.queue.put(bytes(HELD_LOW_BYTES), 2)
    out.queue.put(b"x", 3)
    assert out.levels == [True]
    disk.sync(1)
    assert out.levels == [True]
    disk.sync(2)
    assert out.levels == [True, False]


def test_empty_is_told_once_when_all_has_left(out: Out, disk: DurableByHand) -> None:
    told: list[str] = []
    out.queue.when_empty(lambda: told.append("at once"))
    assert told == ["at once"]
    out.queue.put(b"a", 1)
    out.queue.when_empty(lambda: told.append("later"))
    assert told == ["at once"]
    disk.sync(1)
    out.queue.put(b"b", 2)
    disk.sync(2)
    assert told == ["at once", "later"]


def test_once_shut_nothing_leaves_any_more(out: Out, disk: DurableByHand) -> None:
    told: list[str] = []
    held = out.queue.put(b"a", 1, unrecorded=1)
    assert held is not None
    out.queue.when_empty(lambda: told.append("empty"))
    out.queue.shut()
    out.queue.settle(held, 1)
    assert out.queue.put(b"b", 0) is None
    disk.sync(10)
    assert (out.left, told) == ([], [])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 20), st.integers(0, 2)),
            st.tuples(st.just("settle"), st.integers(0, 20), st.integers(0, 5)),
            st.tuples(st.just("sync"), st.integers(0, 20), st.just(0)),
        ),
        max_size=30,
    )
)
def test_whatever_happens_order_holds_and_nothing_leaves_early_or_stays(steps: list[tuple[str, int, int]]) -> None:
    disk = DurableByHand()
    out = Out(disk)
    #: Of each put: the position that must be durable, and outcomes that are not recorded.
    must: list[list[int]] = []
    unsettled: list[tuple[int, Held]] = []
    for what, position, count in steps:
        if what == "put":
            held = out.queue.put(str(len(must)).encode(), position, unrecorded=count)
            if held is not None:
                unsettled += [(len(must), held)] * count
            must.append([position, count])
        elif what == "settle" and unsettled:
            index, held = unsettled.pop(count % len(unsettled))
            must[index] = [max(must[index][0], position), must[index][1] - 1]
            out.queue.settle(held, position)
        elif what == "sync":
            disk.sync(position)
        assert out.left == [str(index).encode() for index in range(len(out.left))]
        assert all(place <= disk.durable_position and not waiting for place, waiting in must[: len(out.left)])
    for _, held in unsettled:
        out.queue.settle(held, 0)
    disk.sync(20)
    assert len(out.left) == len(must)
