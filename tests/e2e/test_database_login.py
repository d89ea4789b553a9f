"""From the token endpoint to a recorded session: psql uses a database login, on the stack of `make demo`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from controlplane.supervisor.embedded import postgres_tool
from tests.e2e.demo import Demo, eventually, free_port_block, running_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DATABASE_LOGIN = "urn:narrowgate:params:oauth:token-type:database-login"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("login") / "home", free_port_block()) as demo:
        yield demo


def ask(demo: Demo, path: str, **form: str) -> httpx.Response:
    return httpx.post(f"{demo.told['web']['url']}/oauth/{path}", data=form, timeout=30)


def psql(demo: Demo, statement: str, *, user: str, password: str) -> subprocess.CompletedProcess[str]:
    """A client that answers nothing but SCRAM, and only the gate whose certificate it sees."""
    dsn = (
        f"{demo.told['agents']['support-agent']['dsn']} user={user} require_auth=scram-sha-256 channel_binding=require"
    )
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": password}
    command = (str(postgres_tool("psql")), "-XAt", dsn, "-c", statement)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_login_of_the_token_endpoint_opens_a_session_that_is_on_record_until_its_token_is_revoked(demo: Demo) -> None:
    token = demo.told["agents"]["support-agent"]["token"]
    issued = ask(
        demo,
        "token",
        grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
        subject_token=token,
        subject_token_type="urn:ietf:params:oauth:token-type:access_token",
        requested_token_type=DATABASE_LOGIN,
        scope="target:shop",
    ).json()
    assert issued["issued_token_type"] == DATABASE_LOGIN, issued
    user, password = issued["username"], issued["access_token"]

    shown = psql(demo, "SELECT 'by_login'", user=user, password=password)
    assert (shown.stdout, shown.stderr) == ("by_login\n", "")
    eventually(lambda: bool(demo.api("operations/", search="by_login", status="ok")["results"]))
    [operation] = demo.api("operations/", search="by_login")["results"]
    assert (operation["agent"], operation["target"], operation["effect"]) == ("support-agent", "shop", "allow")

    wrong = psql(demo, "SELECT 'never'", user=user, password=password[:-1])
    unknown = psql(demo, "SELECT 'never'", user="ng_" + "0" * 16, password=password)
    assert "the token is not valid here" in wrong.stderr
    assert wrong.stderr.replace(user, "") == unknown.stderr.replace("ng_" + "0" * 16, "")
    assert (wrong.stdout, unknown.stdout) == ("", "")

    assert ask(demo, "revoke", token=token).status_code == 200
    ended = psql(demo, "SELECT 'never'", user=user, password=password)
    assert "the token is not valid here" in ended.stderr
    assert demo.api("operations/", search="never")["results"] == []
