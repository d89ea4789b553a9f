"""Approvals on the whole stack as `make demo` runs it: psql and psycopg wait, people decide, servers are restarted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from controlplane.supervisor.embedded import postgres_tool
from tests.e2e.demo import RETURN_SECONDS, Demo, eventually, free_port_block, running_demo
from tests.e2e.rest import rows, send
from tests.e2e.target import as_superuser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AGENT = "repair-agent"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
#: "50 held at once".
HELD = 50


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("approvals") / "home", free_port_block()) as demo:
        yield demo


def update(order: int, status: str = "shipped") -> str:
    """A repair, told from others by its number."""
    return f"UPDATE orders SET status = '{status}' WHERE id = {order}"


@dataclass(slots=True)
class Waiting:
    """A statement that is held in a thread: `notices` as they came, and how it ended."""

    thread: threading.Thread
    connection: psycopg.Connection[Any]
    notices: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def ends(self) -> str:
        """Wait for the end: "ok <rows>", or the SQLSTATE and the message."""
        self.thread.join(RETURN_SECONDS)
        assert not self.thread.is_alive(), "it is still held"
        return self.ended[0]


@contextmanager
def waiting(demo: Demo, statement: str, *parameters: Any) -> Iterator[Waiting]:
    """Have the agent say it, and go on once its request is there."""
    connection = psycopg.connect(demo.dsn(AGENT), autocommit=True)

    def say() -> None:
        try:
            held.ended.append(f"ok {connection.execute(statement.encode(), parameters or None).rowcount}")
        except psycopg.Error as error:
            held.ended.append(f"{error.sqlstate}: {error}")

    held = Waiting(threading.Thread(target=say), connection)
    connection.add_notice_handler(lambda notice: held.notices.append(notice.message_primary or ""))
    held.thread.start()
    try:
        yield held
    finally:
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=RETURN_SECONDS)
        held.thread.join(RETURN_SECONDS)
        connection.close()


def request_for(demo: Demo, statement: str, state: str = "pending") -> dict[str, Any]:
    """The request about that statement, once it is so."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [row for row in rows(demo, "approval-requests/", state=state) if row["text"] == statement]
        return bool(found)

    eventually(is_there)
    return found[0]


def decide(demo: Demo, request: dict[str, Any], verdict: str, comment: str = "") -> None:
    """As the demo's owner."""
    send(demo, "POST", f"approval-requests/{request['id']}/{verdict}/", {"comment": comment})


def status_of(order: int, demo: Demo) -> str:
    """What the target holds."""
    with as_superuser(demo) as target:
        [[status]] = target.execute("SELECT status FROM orders WHERE id = %s", (order,)).fetchall()
    return str(status)


def set_status(demo: Demo, order: int, status: str = "open") -> None:
    """On the target itself."""
    with as_superuser(demo) as target:
        target.execute("UPDATE orders SET status = %s WHERE id = %s", (status, order))


def test_what_needs_no_approval_passes_and_what_is_denied_never_waits(demo: Demo) -> None:
    with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="names the rows"):
            connection.execute("DELETE FROM orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE orders")
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_psql_waits_for_a_yes_and_is_told_where(demo: Demo) -> None:
    set_status(demo, 11)
    environment = {"PATH": os.environ["PATH"], "PGPASSFILE": demo.told["gate"]["password_file"]}
    command = (str(postgres_tool("psql")), "-X", demo.told["agents"][AGENT]["dsn"], "-c", update(11))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as psql:
        request = request_for(demo, update(11))
        assert status_of(11, demo) == "open"
        decide(demo, request, "approve", "go on")
        said, noticed = psql.communicate(timeout=RETURN_SECONDS)
    assert (psql.returncode, said) == (0, "UPDATE 1\n")
    assert request["url"] in noticed
    assert status_of(11, demo) == "shipped"


def test_a_rejection_is_told_with_its_comment_and_nothing_is_done(demo: Demo) -> None:
    set_status(demo, 12)
    with waiting(demo, update(12)) as held:
        decide(demo, request_for(demo, update(12)), "reject", "not on a Friday")
        ended = held.ends()
    assert ended.startswith("42501")
    assert "not on a Friday" in ended
    assert status_of(12, demo) == "open"


def test_the_parameters_are_shown_and_the_preview_counts_them(demo: Demo) -> None:
    set_status(demo, 13)
    text = "UPDATE orders SET status = $1 WHERE id = $2"
    with waiting(demo, "UPDATE orders SET status = %s WHERE id = %s", "paid", 13) as held:
        request = request_for(demo, text)
        assert request["parameters"][0]["value"] == "paid"

        def is_known(exact: bool) -> bool:
            [now] = [row for row in rows(demo, "approval-requests/") if row["id"] == request["id"]]
            return now["preview_rows"] == 1 and now["preview_was_exact"] is exact

        eventually(lambda: is_known(exact=False))
        send(demo, "POST", f"approval-requests/{request['id']}/preview/", {"exact": True})
        eventually(lambda: is_known(exact=True))
        assert status_of(13, demo) == "open"
        decide(demo, request, "approve")
        assert held.ends() == "ok 1"
    assert status_of(13, demo) == "paid"


def test_who_cancels_waits_no_more_and_the_request_is_withdrawn(demo: Demo) -> None:
    with waiting(demo, update(14)) as held:
        request_for(demo, update(14))
        held.connection.cancel_safe(timeout=10)
        assert held.ends().startswith("57014")
        request_for(demo, update(14), "withdrawn")
        assert held.connection.execute("SELECT 'goes on'").fetchone() == ("goes on",)


def test_who_goes_away_withdraws_the_request(demo: Demo) -> None:
    environment = {"PATH": os.environ["PATH"], "PGPASSFILE": demo.told["gate"]["password_file"]}
    command = (str(postgres_tool("psql")), "-X", demo.told["agents"][AGENT]["dsn"], "-c", update(15))
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as psql:
        request_for(demo, update(15))
        psql.kill()
    request_for(demo, update(15), "withdrawn")


def publish(demo: Demo, **approval: Any) -> None:
    """The repairs' policy, with this approval."""
    [policy] = rows(demo, "policies/", name="repairs")
    rules = [
        {**rule, "approval": {"flow": "on-call", **approval}} if rule["effect"] == "require_approval" else rule
        for rule in policy["rules"]
    ]
    body = {"scope": policy["scope"], "rules": rules, "message": "for a test"}
    send(demo, "POST", f"policies/{policy['id']}/publish/", body)


def test_who_waits_too_long_is_told_and_nothing_is_done(demo: Demo) -> None:
    set_status(demo, 16)
    publish(demo, mode="hold", hold_seconds=1)
    try:
        with waiting(demo, update(16)) as held:
            assert "42501" in held.ends() or "57014" in held.ended[0]
        assert status_of(16, demo) == "open"
    finally:
        publish(demo, mode="hold")


def test_what_is_deferred_passes_once_granted_and_only_as_it_was(demo: Demo) -> None:
    for order in (17, 18):
        set_status(demo, order)
    publish(demo, mode="defer")
    try:
        with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                connection.execute(update(17).encode())
            request = request_for(demo, update(17))
            assert request["url"] in f"{refused.value} {refused.value.diag.message_hint}"
            decide(demo, request, "approve")
            # Another text is another request, whatever was granted.
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(update(18).encode())
            assert connection.execute(update(17).encode()).rowcount == 1
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(update(17).encode())
    finally:
        publish(demo, mode="hold")
    assert (status_of(17, demo), status_of(18, demo)) == ("shipped", "open")


def test_a_policy_that_changes_voids_what_waits(demo: Demo) -> None:
    set_status(demo, 19)
    with waiting(demo, update(19)) as held:
        request_for(demo, update(19))
        publish(demo, mode="hold", hold_seconds=600)
        assert held.ends().startswith("42501")
        request_for(demo, update(19), "void")
    assert status_of(19, demo) == "open"


def test_the_control_plane_is_restarted_while_somebody_waits(demo: Demo) -> None:
    set_status(demo, 20)
    with waiting(demo, update(20)) as held:
        request = request_for(demo, update(20))
        killed = demo.pid("web")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: demo.pid("web") != killed and bool(rows(demo, "approval-requests/")))
        assert request_for(demo, update(20))["id"] == request["id"]
        decide(demo, request, "approve")
        assert held.ends() == "ok 1"
    assert status_of(20, demo) == "shipped"


def test_the_worker_is_killed_while_somebody_waits(demo: Demo) -> None:
    set_status(demo, 21)
    with waiting(demo, update(21)) as held:
        request = request_for(demo, update(21))
        killed = demo.pid("worker")
        os.kill(killed, signal.SIGKILL)
        assert held.ends().startswith("None")  # the connection is lost
        eventually(lambda: demo.pid("worker") != killed and demo.query("SELECT 1") == [(1,)])
        assert request_for(demo, update(21), "withdrawn")["id"] == request["id"]
    assert status_of(21, demo) == "open"


def test_fifty_wait_at_once_and_each_gets_its_own_answer(demo: Demo) -> None:
    orders = range(100, 100 + HELD)
    for order in orders:
        set_status(demo, order)
    ended: dict[int, str] = {}

    def say(order: int) -> None:
        with psycopg.connect(demo.dsn(AGENT), autocommit=True) as connection:
            try:
                ended[order] = f"ok {connection.execute(update(order).encode()).rowcount}"
            except psycopg.Error as error:
                ended[order] = str(error.sqlstate)

    threads = [threading.Thread(target=say, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    texts = {update(order): order for order in orders}

    def pending() -> dict[int, dict[str, Any]]:
        found = rows(demo, "approval-requests/", state="pending")
        return {texts[row["text"]]: row for row in found if row["text"] in texts}

    eventually(lambda: len(pending()) == HELD)
    for order, request in pending().items():
        decide(demo, request, "approve" if order % 2 else "reject")
    for thread in threads:
        thread.join(RETURN_SECONDS)
    assert ended == {order: "ok 1" if order % 2 else "42501" for order in orders}
    assert {order: status_of(order, demo) for order in orders} == {
        order: "shipped" if order % 2 else "open" for order in orders
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_person_approves_a_held_statement_in_the_inbox_without_a_reload(demo: Demo) -> None:
    from playwright.sync_api import expect, sync_playwright

    set_status(demo, 22)
    told = demo.told["web"]
    pictures = Path(os.environ["TEST_SCREENSHOTS"]) if "TEST_SCREENSHOTS" in os.environ else None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1360, "height": 1000})

        def picture(name: str) -> None:
            if pictures is not None:
                page.screenshot(path=pictures / f"approvals-{name}.png", full_page=True)

        page.goto(f"{told['url']}/admin/login/?next=/approvals/")
        page.fill("#id_username", told["email"])
        page.fill("#id_password", told["password"])
        page.press("#id_password", "Enter")
        expect(page.get_by_text("Nothing waits for you")).to_be_visible()
        picture("empty")
        with waiting(demo, update(22)) as held:
            card = page.locator("section", has_text="Waiting for you").get_by_text(update(22))
            expect(card).to_be_visible(timeout=20_000)  # by itself
            picture("waiting")
            card.click()
            expect(page.get_by_text("What the agent wants done")).to_be_visible()
            expect(page.locator(".rows")).to_contain_text("1", timeout=20_000)
            picture("request")
            page.fill("textarea[name=comment] >> nth=0", "looked at it")
            page.get_by_role("button", name="Approve").click()
            assert held.ends() == "ok 1"
            expect(page.get_by_text("Your approval is on record")).to_be_visible()
            expect(page.locator("[data-state=granted]")).to_be_visible()
            picture("granted")
        browser.close()
    assert status_of(22, demo) == "shipped"
