"""The promises, on the whole stack as `make demo` runs it: no secret anywhere, no record lost, room for a crowd."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from controlplane.supervisor.target import ROLE
from proxyworker.contract import JournalOpened, OperationIntent, OperationOutcome, OutcomeStatus, decode_record
from sessions.ingest import unpack_batch
from tests.accounts.provider import AUDIENCE, running_provider
from tests.e2e.agents import word_of, working_agents
from tests.e2e.demo import Demo, eventually, free_port_block, running_demo
from tests.e2e.haystack import Needles, batches, content, everywhere, holders, target_password
from tests.e2e.process import open_files, resident_mib
from tests.e2e.rest import count, rows, send
from tests.e2e.target import as_superuser, statements_logged, waits_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AGENTS = 4
#: Long enough to be seen under way, on a busy machine too.
LONG_SECONDS = 8
PATIENCE_SECONDS = 60.0
CROWD = 200
STATEMENTS_EACH = 5
#: Files of the worker's own that come and go: the link, an upload, a journal's next segment.
LEFT_FILES = 10


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("promises") / "home", free_port_block()) as demo:
        yield demo


# ---------------------------------------------------------------- no secret anywhere


def test_no_secret_is_anywhere_but_where_it_is_told(demo: Demo) -> None:
    told = demo.told
    first, wrong, second = target_password(demo), secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    heard: list[str] = []
    with running_provider() as provider:
        send(demo, "POST", "oidc-trusts/", {
            "name": "promises", "issuer": provider.url, "audience": AUDIENCE, "jwks_url": provider.jwks_url,
            "rules": [{"conditions": ["sub = robot"], "agent": "support-agent"}],
        })  # fmt: skip
        now = int(time.time())
        claims = {"iss": provider.url, "aud": AUDIENCE, "sub": "robot", "exp": now + 600}
        jwt, expired = provider.sign(claims), provider.sign({**claims, "exp": now - 3_600})
        heard += _use_in_every_way(demo)
        heard += _connect_with(demo, jwt)
        heard += _connect_with(demo, expired)
        heard += _connect_with(demo, f"{told['agents']['support-agent']['token'][:-1]}!")
    [credential] = rows(demo, "credentials/")
    send(demo, "PATCH", f"credentials/{credential['id']}/", {"secret": wrong})
    heard += _connect_with(demo, told["agents"]["support-agent"]["token"])
    assert "28P01" in _log_of(demo, "worker")
    with as_superuser(demo) as target:
        target.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(second)))
    send(demo, "PATCH", f"credentials/{credential['id']}/", {"secret": second})
    heard += _use_in_every_way(demo)
    assert target_password(demo) == second

    _await_acknowledged(demo)
    eventually(lambda: not list((demo.home / "worker" / "spool").glob("*.ngs")))
    # Of a token, the part that proves it; what stands before that is its public name.
    needles = Needles(
        {
            "the target's first password": first,
            "the target's wrong password": wrong,
            "the target's second password": second,
            "a JWT": jwt.rpartition(".")[2],
            "an expired JWT": expired.rpartition(".")[2],
            "the REST token": told["web"]["api_token"].rpartition("_")[2],
            "the join token": (demo.home / "secrets" / "join-token").read_text().strip().rpartition("_")[2],
            **{f"the token of {name}": agent["token"].rpartition("_")[2] for name, agent in told["agents"].items()},
        }
    )
    for name, data in holders(demo):
        assert needles.found_in(data), f"{name} holds no secret, and is excepted for nothing"
    assert needles.found_in("\n".join(heard).encode()) == []
    places: Counter[str] = Counter()
    for name, data in everywhere(demo):
        assert needles.found_in(data) == [], name
        places[name.lstrip("/").split()[0].partition("/")[0]] += len(data) > 0
    print(f"\n{len(heard)} errors and notices, and these places, hold none of the secrets: {dict(places)}")
    assert any(b"customer_of_both" in data for _, data in content(demo.home))


def _log_of(demo: Demo, child: str) -> str:
    """What the child has said."""
    return (demo.home / "log" / f"{child}.log").read_text()


def _connect_with(demo: Demo, password: str) -> list[str]:
    """The error with which it ends; nothing when it succeeds."""
    try:
        with psycopg.connect(demo.told["agents"]["support-agent"]["dsn"], password=password) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError as error:
        return [str(error)]
    return []


def _use_in_every_way(demo: Demo) -> list[str]:
    """Sessions that succeed, fail and are refused; all that the clients were told beside rows."""
    heard = _by_psql(demo) + _by_psycopg(demo)
    for agent, option in (
        ("intern-agent", ""),
        ("support-agent", "dbname=nowhere"),
        ("support-agent", "sslmode=disable"),
    ):
        with pytest.raises(psycopg.OperationalError) as refused:
            psycopg.connect(f"{demo.dsn(agent)} {option}")
        heard.append(str(refused.value))
    return heard


def _by_psql(demo: Demo) -> list[str]:
    done = demo.psql(
        "-v", "VERBOSITY=verbose", "-c", "SELECT *, 'customer_of_both' FROM customers", "-c", "SELEKT",
        "-c", r"\conninfo", "-c", "COPY customers TO STDOUT", "-c", "SELECT rolname, rolpassword FROM pg_authid",
    )  # fmt: skip
    assert "customer_of_both" in done.stdout
    return [done.stdout, done.stderr]


def _by_psycopg(demo: Demo) -> list[str]:
    heard: list[str] = []
    with psycopg.connect(demo.dsn(), autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: heard.append(f"{notice.message_primary} {notice.context}"))
        connection.execute("DO $$ BEGIN RAISE NOTICE 'noticed'; END $$")
        connection.execute("CREATE TEMP TABLE copied (text text)")
        with connection.cursor() as cursor:
            with cursor.copy("COPY copied FROM STDIN") as copy_in:
                copy_in.write(b"a row\n" * 10_000)
            with cursor.copy("COPY copied TO STDOUT") as copy_out:
                assert sum(len(data) for data in copy_out) == 60_000
        for statement in (b"SELECT 1/0", b"SELECT * FROM nowhere", b"SET ROLE postgres", b"SELECT pg_read_file('x')"):
            with pytest.raises(psycopg.Error) as failed:
                connection.execute(statement)
            heard.append(f"{failed.value} {failed.value.diag.message_detail} {failed.value.diag.message_hint}")
        heard.append(_cancelled(demo, connection))
        own = connection.execute("SELECT pg_backend_pid()").fetchone()
        with as_superuser(demo) as target:
            target.execute("SELECT pg_terminate_backend(%s)", own)
        with pytest.raises(psycopg.OperationalError) as ended:
            connection.execute("SELECT 1")
    return [*heard, str(ended.value)]


def _cancelled(demo: Demo, connection: psycopg.Connection) -> str:
    """The error of a statement that is cancelled while it runs."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        answer = thread.submit(connection.execute, "SELECT pg_sleep(60)")
        eventually(lambda: waits_for(demo, "SELECT pg_sleep(60)") == "PgSleep")
        connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled) as cancelled:
            answer.result(PATIENCE_SECONDS)
    return str(cancelled.value)


# ---------------------------------------------------------------- no record lost


def test_whatever_is_killed_no_record_is_lost(demo: Demo) -> None:
    with as_superuser(demo) as target:
        target.execute("CREATE TABLE promises (word text)")
        target.execute(sql.SQL("GRANT INSERT ON promises TO {}").format(sql.Identifier(ROLE)))
    with statements_logged(demo), working_agents(demo.dsn(), number=AGENTS) as tally:
        tally.await_more(100)
        for child, number, is_answered in (
            ("web", signal.SIGKILL, True),
            ("worker", signal.SIGTERM, False),
            ("worker", signal.SIGKILL, False),
            ("postgres", signal.SIGKILL, True),
        ):
            with _statement_under_way(demo, f"{child} {number.name}", is_answered=is_answered):
                began = time.monotonic()
                _end(demo, child, number)
                tally.await_more(100)
                took = time.monotonic() - began
            print(f"\n{child}: {number.name}; {took:.1f} s later the agents had done 100 statements more", end="")
    _await_acknowledged(demo)

    operations = rows(demo, "operations/", search="promise-", ordering="at")
    recorded = {word_of(operation["text"]): operation for operation in operations}
    assert tally.succeeded - recorded.keys() == set()
    assert {recorded[word]["status"] for word in tally.succeeded} == {"ok"}
    reached = {word for line in _target_log(demo) if (word := word_of(line))}
    assert len(reached) >= len(tally.succeeded)
    assert reached - recorded.keys() == set()
    print(f"\n{len(tally.succeeded)} succeeded, {len(reached)} reached the target, {len(recorded)} are on record")
    _check_journals(demo)


def _end(demo: Demo, child: str, number: signal.Signals) -> None:
    """Return when another process has taken its place."""
    ended = demo.pid(child)
    os.kill(ended, number)
    eventually(lambda: demo.pid(child) != ended)


@contextmanager
def _statement_under_way(demo: Demo, name: str, *, is_answered: bool) -> Iterator[None]:
    """The body runs while a statement does. A session outlives its control plane, and not its worker."""
    text = f"SELECT pg_sleep({LONG_SECONDS}), 'promised under {name}'"
    with ThreadPoolExecutor(max_workers=1) as thread:
        answer = thread.submit(demo.query, text)
        eventually(lambda: count(demo, "operations/", search=text, status="running") == 1)
        yield
        if is_answered:
            assert answer.result(PATIENCE_SECONDS)[0][1] == f"promised under {name}"
        else:
            with pytest.raises(psycopg.OperationalError):
                answer.result(PATIENCE_SECONDS)


def _await_acknowledged(demo: Demo) -> None:
    """The journal is in order: once a session's end has arrived, so has all that was written before it."""
    last = f"the last word, {secrets.token_hex(8)}"
    eventually(lambda: demo.query(f"SELECT '{last}'") == [(last,)])
    eventually(lambda: count(demo, "operations/", search=last, status="ok") >= 1)
    eventually(lambda: count(demo, "sessions/", state="live") == 0)
    assert count(demo, "operations/", status="running") == 0


def _target_log(demo: Demo) -> Iterator[str]:
    """Each line that the target wrote of a statement, rotated logs included."""
    for file in (demo.home / "log").glob("target.log*"):
        yield from file.read_text().splitlines()


def _check_journals(demo: Demo) -> None:
    """Batches follow on each other without a gap; each operation has one outcome; the unknown ones are listed."""
    by_journal: dict[str, list[dict[str, object]]] = {}
    for batch in rows(demo, "journal-batches/", ordering="first_seq"):
        by_journal.setdefault(batch["journal"], []).append(batch)
    for journal in by_journal.values():
        assert journal[0]["first_seq"] == 1
        assert set(str(journal[0]["chain_before"])) == {"0"}
        for earlier, later in pairwise(journal):
            assert later["first_seq"] == int(str(earlier["last_seq"])) + 1
            assert later["chain_before"] == earlier["chain_after"]
    records = [decode_record(record) for payload in batches(demo) for record in unpack_batch(payload)]
    assert len(records) == sum(int(str(journal[-1]["last_seq"])) for journal in by_journal.values())
    intents = Counter((record.session_id, record.op) for record in records if isinstance(record, OperationIntent))
    outcomes = [record for record in records if isinstance(record, OperationOutcome)]
    assert set(intents.values()) == {1}
    assert Counter((record.session_id, record.op) for record in outcomes) == intents
    unknown = {(record.session_id, record.op) for record in outcomes if record.status is OutcomeStatus.UNKNOWN}
    listed = rows(demo, "operations/", status="unknown")
    assert {(operation["session"], operation["op"]) for operation in listed} == unknown
    found = sum(record.recovered_unknown for record in records if isinstance(record, JournalOpened))
    assert 1 <= found <= len(unknown)
    print(f"{len(records)} records in {len(by_journal)} journals, {len(unknown)} outcomes unknown, {found} of a crash")


# ---------------------------------------------------------------- room for a crowd


async def _one_of_the_crowd(demo: Demo, number: int, all_there: asyncio.Barrier, measured: asyncio.Event) -> None:
    async with await psycopg.AsyncConnection.connect(f"{demo.dsn()} connect_timeout=60", autocommit=True) as connection:
        await all_there.wait()
        for at in range(STATEMENTS_EACH):
            cursor = await connection.execute(f"SELECT 'crowd-{number}-{at}-', * FROM customers LIMIT 10".encode())
            assert len(await cursor.fetchall()) == 10
        await all_there.wait()
        await measured.wait()


async def test_two_hundred_agents_at_once_are_served_and_recorded(demo: Demo) -> None:
    worker = demo.pid("worker")
    before = (resident_mib(worker), open_files(worker))
    began = time.monotonic()
    all_there, measured = asyncio.Barrier(CROWD + 1), asyncio.Event()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number in range(CROWD):
            group.create_task(_one_of_the_crowd(demo, number, all_there, measured))
        await all_there.wait()
        there = time.monotonic() - began
        await all_there.wait()
        done = time.monotonic() - began
        await asyncio.to_thread(eventually, lambda: count(demo, "sessions/", state="live") == CROWD)
        held = (resident_mib(worker), open_files(worker))
        measured.set()
    await asyncio.to_thread(_await_acknowledged, demo)
    operations = await asyncio.to_thread(partial(rows, demo, "operations/", search="crowd-", status="ok"))
    recorded = {operation["text"].split("'")[1] for operation in operations}
    assert recorded == {f"crowd-{number}-{at}-" for number in range(CROWD) for at in range(STATEMENTS_EACH)}
    await asyncio.to_thread(eventually, lambda: open_files(worker) <= before[1] + LEFT_FILES)
    print(
        f"\n{CROWD} sessions in {there:.1f} s, {len(recorded)} statements in {done - there:.1f} s; the worker held"
        f" {held[0]:.0f} MiB and {held[1]} files (before: {before[0]:.0f} MiB, {before[1]};"
        f" after: {resident_mib(worker):.0f} MiB, {open_files(worker)})"
    )
