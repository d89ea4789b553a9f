"""REST of a demo, and its admin, for tests that read all there is."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.demo import Demo

#: As much as REST gives at once.
PAGE_ROWS = 500
#: A page of 500 operations takes a second on a busy machine.
ANSWER_SECONDS = 60.0


@contextmanager
def rest(demo: Demo) -> Iterator[httpx.Client]:
    """A client of REST, with the demo's token."""
    headers = {"Authorization": f"Bearer {demo.told['web']['api_token']}"}
    with httpx.Client(base_url=demo.told["web"]["api_url"], headers=headers, timeout=ANSWER_SECONDS) as client:
        yield client


def pages(demo: Demo, path: str, **parameters: str | int) -> Iterator[httpx.Response]:
    """All pages of a list."""
    page = 1
    with rest(demo) as client:
        while True:
            answer = client.get(path, params={"page_size": PAGE_ROWS, "page": page, **parameters})
            answer.raise_for_status()
            yield answer
            if answer.json()["next"] is None:
                return
            page += 1


def rows(demo: Demo, path: str, **parameters: str | int) -> list[dict[str, Any]]:
    """All rows of a list."""
    return [row for page in pages(demo, path, **parameters) for row in page.json()["results"]]


def count(demo: Demo, path: str, **parameters: str | int) -> int:
    """How many rows a list has."""
    with rest(demo) as client:
        answer = client.get(path, params={"page_size": 1, **parameters})
        answer.raise_for_status()
        return int(answer.json()["count"])


def send(demo: Demo, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Change something; the answer, which must be a success."""
    with rest(demo) as client:
        answer = client.request(method, path, json=body)
        assert answer.is_success, answer.text
        changed: dict[str, Any] = answer.json()
        return changed


def everything_rest_says(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """Each list that the OpenAPI document knows, all pages of it."""
    with rest(demo) as client:
        paths = client.get("schema/", params={"format": "json"}).json()["paths"]
    for path, methods in paths.items():
        if "get" in methods and "{" not in path and not path.endswith("/schema/"):
            for page in pages(demo, path.removeprefix("/api/v1/")):
                yield f"REST {path}", page.content


def everything_the_admin_shows(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """The index, each list that it links to, and each row's page that a list's first page links to."""
    told = demo.told["web"]
    with httpx.Client(base_url=told["url"], follow_redirects=True, timeout=ANSWER_SECONDS) as client:
        client.get("/admin/login/")
        form = {
            "username": told["email"],
            "password": told["password"],
            "csrfmiddlewaretoken": client.cookies["narrowgate_csrf"],
        }
        index = client.post("/admin/login/?next=/admin/", data=form)
        index.raise_for_status()
        assert "/admin/logout/" in index.text, "not signed in"
        yield "the admin's index", index.content
        for listing in sorted(set(re.findall(r'href="(/admin/[a-z_]+/[a-z_]+/)[?"]', index.text))):
            shown = client.get(listing)
            shown.raise_for_status()
            yield listing, shown.content
            for page in sorted(set(re.findall(rf'href="({listing}[^/"?]+/change/)[?"]', shown.text))):
                row = client.get(page)
                row.raise_for_status()
                yield page, row.content
