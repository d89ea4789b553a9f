"""The pages for people: links that lead somewhere, commands that name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import pytest
from django.urls import Resolver404, resolve

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(PROJECT).as_posix()
    for folder in (".", "docs", "docs/learn", "deploy")
    for page in (PROJECT / folder).glob("*.md")
)
#: Of Markdown: a link's address, but for those to other sites.
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
#: Of the tour: a path of REST, with what its commands leave to be filled in.
_REST = re.compile(r"\bapi [\"']?([a-z-]+/(?:<its id>/)?(?:[a-z-]+/)?)")


def anchors(page: Path) -> set[str]:
    """The headings as GitHub's links name them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(page.read_text())
    }


@pytest.mark.parametrize("name", PAGES)
def test_each_link_of_a_page_leads_to_a_file_and_its_heading(name: str) -> None:
    page = PROJECT / name
    for path, anchor in _LINK.findall(page.read_text()):
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{path} of {name}"
        assert not anchor or anchor in anchors(there), f"{path}#{anchor} of {name}"


def test_each_address_of_the_tour_is_one_of_rest() -> None:
    tour = (PROJECT / "docs" / "tour.md").read_text()
    paths = {path.replace("<its id>", str(UUID(int=0))) for path in _REST.findall(tour)}
    assert {"approval-requests/", "kill-orders/", "policy-suggestions/", "join-tokens/"} <= paths
    for path in paths:
        try:
            resolve(f"/api/v1/{path}")
        except Resolver404:
            pytest.fail(f"the tour asks for {path}, which isn't there")
