"""What can't be seen is written out."""

from __future__ import annotations

import pytest

from controlplane.templatetags.texts import shown
from controlplane.visible import visible


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT 'Größe, 数, 🦊'\n\tFROM t", "SELECT 'Größe, 数, 🦊'\n\tFROM t"),
        ("id = 1 \u202e; DELETE", "id = 1 ⟨U+202E⟩; DELETE"),
        ("a\u200bb\u2066c\x00d\x1b[2Je\u00a0f\U000e0041", "a⟨U+200B⟩b⟨U+2066⟩c⟨U+0000⟩d⟨U+001B⟩[2Je⟨U+00A0⟩f⟨U+E0041⟩"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, said: str) -> None:
    assert visible(text) == said


def test_in_a_line_there_is_one_line() -> None:
    assert visible("ada\nTarget: other", is_line=True) == "ada⟨U+000A⟩Target: other"


def test_a_page_shows_the_ends_of_lines_of_other_systems_as_such() -> None:
    assert shown("SELECT 1\r\nFROM t\rx") == "SELECT 1\nFROM t⟨U+000D⟩x"
