"""`python -m tests.bench.identity [--requests N]`: token exchange and agent login, against plain Django views.

In one process and one thread, through Django's handler with all middleware and real servers, so that a ratio says what
the code costs and no network does. The cases take turns; rate and p99 are of all rounds. CPU is this process's, without
PostgreSQL's: the one figure that a busy machine leaves alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Any

#: Rounds in which the cases take turns.
ROUNDS = 5


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="of each case")
    wanted = parser.parse_args().requests
    from tests.plugin.embedded import _prepare_environment

    with ExitStack() as stack:
        _prepare_environment(stack)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
        os.environ.setdefault("NARROWGATE_LOG_LEVEL", "ERROR")
        import django
        from django.test.utils import get_runner, setup_test_environment, teardown_test_environment

        django.setup()
        from django.conf import settings

        from tests.conftest import made_by_owner

        setup_test_environment()
        runner = get_runner(settings)(verbosity=0, interactive=False)
        with made_by_owner():
            databases = runner.setup_databases()
            try:
                _measure(stack, wanted)
            finally:
                runner.teardown_databases(databases)
                teardown_test_environment()


def _measure(stack: ExitStack, wanted: int) -> None:
    cases = _cases(stack)
    statements = {name: _count_statements(run) for name, run in cases.items()}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    worked = dict.fromkeys(cases, 0.0)
    for _ in range(ROUNDS):
        for name, run in cases.items():
            before = time.process_time()
            for _ in range(max(1, wanted // ROUNDS)):
                begun = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - begun)
            worked[name] += time.process_time() - before
    plain = statistics.fmean(taken["plain view"])
    print(f"{'case':<34}{'1/s':>8}{'p50 ms':>9}{'p99 ms':>9}{'of plain':>10}{'CPU ms':>9}{'SQL':>5}")
    for name, seconds in taken.items():
        mean, p99 = statistics.fmean(seconds), statistics.quantiles(seconds, n=100)[98]
        middle, busy = statistics.median(seconds), worked[name] / len(seconds)
        print(
            f"{name:<34}{1 / mean:>8.0f}{middle * 1e3:>9.2f}{p99 * 1e3:>9.2f}{plain / mean:>10.2f}"
            f"{busy * 1e3:>9.2f}{statements[name]:>5}"
        )


def _count_statements(run: Callable[[], Any]) -> int:
    """Of the ORM, once keys are fetched."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    run()
    with CaptureQueriesContext(connection) as asked:
        run()
    return len(asked)


def _cases(stack: ExitStack) -> dict[str, Callable[[], Any]]:
    from django.test import Client

    from accounts import actions
    from accounts.identify import identify_agent
    from accounts.oauth import actions as oauth
    from accounts.oauth import limits
    from accounts.oauth.exchange import TOKEN_EXCHANGE
    from tests.accounts.conftest import make_site, make_trust
    from tests.accounts.provider import AUDIENCE, running_provider

    limits.REQUESTS_PER_MINUTE = 10**9  # type: ignore[misc]  # one address asks as a whole fleet
    site, provider = make_site("bench"), stack.enter_context(running_provider())
    make_trust(site, provider)
    client, made = oauth.make_client(site.agent, acting_user=None)
    issued = actions.issue_agent_token(site.agent, acting_user=None)[1].text
    browser, numbers = Client(), count()
    if made is None:
        raise AssertionError("a client without keys has a secret")

    def jwt(algorithm: str = "RS256", key_id: str = "rsa") -> str:
        claims = {"iss": provider.url, "aud": AUDIENCE, "sub": "reporter-prod", "exp": int(time.time()) + 600}
        return provider.sign({**claims, "jti": str(next(numbers))}, algorithm=algorithm, key_id=key_id)

    tokens = {"RS256": jwt(), "ES256": jwt("ES256", "ec")}
    grant = {"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": made.text}

    def exchange(token: str) -> Callable[[], None]:
        kind = "urn:ietf:params:oauth:token-type:jwt"
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": kind}
        return lambda: post({**form, "scope": "target:shop"})

    def post(form: dict[str, str]) -> None:
        from urllib.parse import urlencode

        kind = "application/x-www-form-urlencoded"
        answer = browser.post("/oauth/token", urlencode(form), content_type=kind)
        if answer.status_code != 200:
            raise SystemExit(f"the token endpoint said {answer.status_code}: {answer.content!r}")

    return {
        "plain view": lambda: browser.get("/healthz"),
        "plain view that asks the database": lambda: browser.get("/readyz"),
        "token exchange, RS256": exchange(tokens["RS256"]),
        "token exchange, ES256": exchange(tokens["ES256"]),
        "client secret": lambda: post(grant),
        "agent login, issued token": lambda: identify_agent(issued, now=datetime.now(tz=UTC)),
        "agent login, JWT": lambda: identify_agent(tokens["RS256"], now=datetime.now(tz=UTC)),
    }


if __name__ == "__main__":
    main()
