"""How votes count: pure. A vote counts while its voter may still vote in its stage; one person is one vote.

Stages are filled in their order. The first no rejects the request, and isn't counted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Tally:
    """How a request stands. `yes` and `needed` are of each stage; `stage` is the one that is asked now.

    `is_passed`: every stage has its quorum, and `stage` is their number. `can_pass`: there are people who could still
    give it.
    """

    yes: tuple[int, ...]
    needed: tuple[int, ...]
    stage: int
    can_pass: bool

    @property
    def is_passed(self) -> bool:
        """Nothing is missing."""
        return self.stage == len(self.needed)


def count(quorums: Sequence[int], *, electors: Sequence[frozenset[UUID]], approvals: Mapping[UUID, int]) -> Tally:
    """`electors`: who may vote in each stage now. `approvals`: in which stage each person has said yes."""
    valid = [
        sum(1 for person, voted_in in approvals.items() if voted_in == stage and person in electors[stage])
        for stage in range(len(quorums))
    ]
    open_stages = [stage for stage, quorum in enumerate(quorums) if valid[stage] < quorum]
    missing = {stage: quorums[stage] - valid[stage] for stage in open_stages}
    voted = frozenset(approvals)
    candidates = {stage: electors[stage] - voted for stage in open_stages}
    return Tally(
        yes=tuple(valid),
        needed=tuple(quorums),
        stage=open_stages[0] if open_stages else len(quorums),
        can_pass=_can_be_filled(missing, candidates),
    )


def _can_be_filled(missing: Mapping[int, int], candidates: Mapping[int, frozenset[UUID]]) -> bool:
    """Whether each stage can get its missing votes, nobody voting twice: a bipartite matching."""
    seat_of: dict[UUID, int] = {}
    seats = [stage for stage, number in missing.items() for _ in range(number)]

    def seat_is_filled(seat: int, tried: set[UUID]) -> bool:
        for person in candidates[seats[seat]] - tried:
            tried.add(person)
            if person not in seat_of or seat_is_filled(seat_of[person], tried):
                seat_of[person] = seat
                return True
        return False

    return all(seat_is_filled(seat, set()) for seat in range(len(seats)))
