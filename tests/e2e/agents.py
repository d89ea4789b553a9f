"""Agents that say numbered statements in a loop, and remember what they saw succeed."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import psycopg

from tests.e2e.demo import RETURN_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Between two statements of an agent: what is recorded must also be read by the test, page by page.
PACE_SECONDS = 0.02
#: After a session has failed.
RETRY_SECONDS = 0.1
#: New sessions are as much at risk as running ones.
STATEMENTS_A_SESSION = 50

_NUMBERED = re.compile(r"promise-\d+-")


@dataclass(slots=True)
class Tally:
    """What all agents together did."""

    numbers: count[int] = field(default_factory=lambda: count(1))
    succeeded: set[str] = field(default_factory=set)

    def await_more(self, statements: int) -> None:
        """Return when so many more statements have succeeded."""
        wanted = len(self.succeeded) + statements
        eventually(lambda: len(self.succeeded) >= wanted)


def word_of(text: str) -> str:
    """The number that a statement, or a line of a log, is known by; empty where there is none."""
    found = _NUMBERED.search(text)
    return found[0] if found else ""


def _work(dsn: str, tally: Tally, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            _one_session(dsn, tally, stop)
        except psycopg.OperationalError:  # the gate is down, or its control plane
            stop.wait(RETRY_SECONDS)


def _one_session(dsn: str, tally: Tally, stop: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(STATEMENTS_A_SESSION):
            number = next(tally.numbers)
            word = f"promise-{number}-"
            verb = "SELECT" if number % 2 else "INSERT INTO promises VALUES"
            # Every third by the extended protocol.
            connection.execute(f"{verb} ('{word}')".encode(), binary=number % 3 == 0)
            tally.succeeded.add(word)
            if stop.wait(PACE_SECONDS):
                return


@contextmanager
def working_agents(dsn: str, *, number: int) -> Iterator[Tally]:
    """So many agents at work; at the end they finish what they are at, and go."""
    tally, stop = Tally(), threading.Event()
    threads = [threading.Thread(target=_work, args=(dsn, tally, stop), name=f"agent {at}") for at in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join(RETURN_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
