"""How times read on a session's page."""

from __future__ import annotations

import pytest

from sessions.templatetags.timeline import duration, words


@pytest.mark.parametrize(
    ("microseconds", "said"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1_000, "1.0 ms"),
        (1_500_000, "1.50 s"),
        (119_990_000, "119.99 s"),
        (120_000_000, "2 min 00 s"),
        (905_200_000, "15 min 05 s"),
        (7_260_000_000, "2 h 01 min"),
    ],
)
def test_a_duration_is_said_in_the_unit_in_which_it_has_few_digits(microseconds: int, said: str) -> None:
    assert duration(microseconds) == said


def test_a_name_of_ours_reads_as_words() -> None:
    assert words("issued_token") == "issued token"
