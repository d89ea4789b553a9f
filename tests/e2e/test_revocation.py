"""Whatever a session lives on, taking it away ends psql in the middle of a statement; the session says how soon.

One demo for all: each test has an agent of its own at work, and leaves the others' alone. `pytest -s` shows the times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from psycopg.conninfo import make_conninfo

from controlplane.supervisor.embedded import SUPERUSER, postgres_tool
from tests.accounts.provider import AUDIENCE, Provider, running_provider
from tests.e2e.demo import PROJECT, Demo, eventually, free_port_block, read_process, running_demo
from tests.e2e.rest import ANSWER_SECONDS, rest, rows, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: What is promised is seconds, on a machine that may be busy.
DEAD_SECONDS = 30.0
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
POLICY = """
kind: Policy
tenant: demo
name: doomed
rules:
  - {name: the-doomed-reach-shop, effect: allow, agents: ["doomed-*"], targets: [shop, "shop-*"]}
"""


@dataclass(slots=True)
class Stage:
    """A demo, a provider of tokens, and an agent that is about to lose what it lives on."""

    demo: Demo
    provider: Provider
    name: str = field(default_factory=lambda: f"doomed-{token_hex(4)}")
    target: str = "shop"
    agent_id: str = ""

    @property
    def person(self) -> str:
        """Who is behind the agent, or answers for it."""
        return f"{self.name}@demo.example"

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """By REST, as an owner of the tenant."""
        return send(self.demo, method, path, body or {})

    def token(self) -> dict[str, Any]:
        """A new one of ours."""
        return self.send("POST", f"agents/{self.agent_id}/tokens/")

    def trust(self, **more: Any) -> dict[str, Any]:
        """A trust in the provider, of which only this agent's tokens are."""
        rules = [{"conditions": [f"sub = {self.name}"], "agent": self.name}]
        told = {"name": self.name, "issuer": self.provider.url, "audience": self.name, "rules": rules, **more}
        return self.send("POST", "oidc-trusts/", told)

    def jwt(self, **more: Any) -> str:
        """The provider's word for the agent."""
        said = {"iss": self.provider.url, "aud": self.name, "sub": self.name, "exp": int(time.time()) + 3600, **more}
        return self.provider.sign(said)

    def exchanged(self, form: dict[str, str]) -> str:
        """What the token endpoint gives for it."""
        answer = httpx.post(f"{self.demo.told['web']['url']}/oauth/token", data=form, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def scim(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """As the tenant's directory."""
        token = self.send("POST", "service-tokens/", {"purpose": "scim"})["token"]
        url = f"{self.demo.told['web']['url']}/scim/v2/{path}"
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=ANSWER_SECONDS)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    def sponsor(self, address: str) -> None:
        """Somebody answers for the agent."""
        self.send("PATCH", f"agents/{self.agent_id}/", {"sponsor": address})


def apply(demo: Demo, manifest: str) -> None:
    """By `manage.py apply`, as whoever runs the installation."""
    pairs = (entry.split("=", 1) for entry in read_process(demo.pid("web"), "environ").decode().split("\0"))
    environment = dict(pair for pair in pairs if len(pair) == 2)
    file = demo.home.with_name("manifest.yaml")
    file.write_text(manifest)
    command = (sys.executable, "manage.py", "apply", "-f", str(file))
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


Act = Callable[[], object]


def the_agent(stage: Stage) -> tuple[str, Act]:
    token = stage.token()["token"]
    return token, lambda: stage.send("PATCH", f"agents/{stage.agent_id}/", {"is_active": False})


def the_token(stage: Stage) -> tuple[str, Act]:
    issued = stage.token()
    return issued["token"], lambda: stage.send("POST", f"agent-tokens/{issued['id']}/revoke/")


def the_token_that_it_was_made_from(stage: Stage) -> tuple[str, Act]:
    issued = stage.token()
    kind = "urn:ietf:params:oauth:token-type:access_token"
    token = stage.exchanged(
        {"grant_type": EXCHANGE, "subject_token": issued["token"], "subject_token_type": kind, "scope": "target:shop"}
    )
    return token, lambda: stage.send("POST", f"agent-tokens/{issued['id']}/revoke/")


def the_client(stage: Stage) -> tuple[str, Act]:
    client = stage.send("POST", "oauth-clients/", {"agent": stage.agent_id})
    secret = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    token = stage.exchanged({"grant_type": "client_credentials", **secret})
    return token, lambda: stage.send("POST", f"oauth-clients/{client['id']}/deactivate/")


def the_trust(stage: Stage) -> tuple[str, Act]:
    trust = stage.trust()
    return stage.jwt(), lambda: stage.send("PATCH", f"oidc-trusts/{trust['id']}/", {"is_active": False})


def the_trust_for_good(stage: Stage) -> tuple[str, Act]:
    trust = stage.trust()
    return stage.jwt(), lambda: delete(stage, f"oidc-trusts/{trust['id']}/")


def the_trust_behind_an_exchanged_token(stage: Stage) -> tuple[str, Act]:
    trust = stage.trust()
    token = stage.exchanged({"grant_type": EXCHANGE, "subject_token": stage.jwt(), "subject_token_type": JWT})
    return token, lambda: stage.send("PATCH", f"oidc-trusts/{trust['id']}/", {"is_active": False})


def the_trust_for_good_behind_an_exchanged_token(stage: Stage) -> tuple[str, Act]:
    trust = stage.trust()
    token = stage.exchanged({"grant_type": EXCHANGE, "subject_token": stage.jwt(), "subject_token_type": JWT})
    return token, lambda: delete(stage, f"oidc-trusts/{trust['id']}/")


def the_sponsor_by_scim(stage: Stage) -> tuple[str, Act]:
    apply(stage.demo, f"kind: User\nemail: {stage.person}\nname: Sponsor\nroles: {{demo: viewer}}\n")
    stage.sponsor(stage.person)
    row = stage.scim("POST", "Users", {"userName": stage.person})
    return stage.token()["token"], lambda: stage.scim("DELETE", f"Users/{row['id']}")


def the_person_behind_the_agent_by_scim(stage: Stage) -> tuple[str, Act]:
    stage.trust(person_claim="email")
    row = stage.scim("POST", "Users", {"userName": stage.person})
    goodbye = {"Operations": [{"op": "replace", "path": "active", "value": False}]}
    return stage.jwt(email=stage.person), lambda: stage.scim("PATCH", f"Users/{row['id']}", goodbye)


def the_identity_provider_of_the_sponsor(stage: Stage) -> tuple[str, Act]:
    slug = stage.name
    row = stage.send(
        "POST", "identity-providers/",
        {"slug": slug, "name": "IdP", "issuer": stage.provider.url, "client_id": AUDIENCE, "client_secret": "x",
         "role_mappings": [{"group": "staff", "role": "viewer"}]},
    )  # fmt: skip
    with httpx.Client(base_url=stage.demo.told["web"]["url"], timeout=ANSWER_SECONDS) as browser:
        asked = parse_qs(urlsplit(browser.get(f"/sign-in/demo/{slug}/").headers["Location"]).query)
        now = int(time.time())
        claims = {
            "iss": stage.provider.url, "aud": AUDIENCE, "sub": slug, "email": stage.person, "groups": ["staff"],
            "nonce": asked["nonce"][0], "iat": now, "exp": now + 300,
        }  # fmt: skip
        stage.provider.documents["/token"] = {"access_token": "at", "id_token": stage.provider.sign(claims)}
        back = {"code": "c0de", "state": asked["state"][0]}
        answer = browser.get(f"/sign-in/demo/{slug}/callback/", params=back)
        assert answer.headers["Location"] == "/admin/", answer.text
    stage.sponsor(stage.person)
    return stage.token()["token"], lambda: delete(stage, f"identity-providers/{row['id']}/")


def the_target(stage: Stage) -> tuple[str, Act]:
    stage.target = f"shop-{token_hex(4)}"
    [shop] = rows(stage.demo, "targets/", name="shop")
    kept = ("protocol", "host", "port", "database", "tls_mode", "ca_pem")
    made = stage.send("POST", "targets/", {"name": stage.target, **{name: shop[name] for name in kept}})
    secret = Path(stage.demo.told["target"]["superuser_password_file"]).read_text().strip()
    credential = {"target": made["id"], "username": SUPERUSER, "secret": secret}
    stage.send("POST", "credentials/", credential)
    return stage.token()["token"], lambda: stage.send("PATCH", f"targets/{made['id']}/", {"is_active": False})


def the_tenant(stage: Stage) -> tuple[str, Act]:
    token = stage.token()["token"]
    return token, lambda: apply(stage.demo, "kind: Tenant\nslug: demo\nname: Demo Shop\nis_active: false\n")


def delete(stage: Stage, path: str) -> None:
    with rest(stage.demo) as client:
        assert client.delete(path).status_code == 204


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("demo") / "home", free_port_block()) as demo:
        apply(demo, POLICY)
        yield demo


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        provider.documents["/.well-known/openid-configuration"] |= {
            "authorization_endpoint": f"{provider.url}/authorize",
            "token_endpoint": f"{provider.url}/token",
        }
        yield provider


@pytest.fixture
def stage(demo: Demo, provider: Provider) -> Stage:
    # Whoever came before may have cut the worker's link, which comes back by itself.
    eventually(lambda: demo.query("SELECT 1") == [(1,)])
    stage = Stage(demo, provider)
    stage.agent_id = stage.send("POST", "agents/", {"name": stage.name})["id"]
    return stage


@contextmanager
def at_work(stage: Stage, password: str) -> Iterator[subprocess.Popen[str]]:
    """psql in the middle of a statement."""
    dsn = make_conninfo(stage.demo.told["agents"]["support-agent"]["dsn"], user=stage.name, dbname=stage.target)
    command = (str(postgres_tool("psql")), "-X", dsn, "-c", f"SELECT pg_sleep(600), '{stage.name}'")
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": password}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: is_running(stage, process))
            yield process
        finally:
            process.kill()


def is_running(stage: Stage, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()[1]
    return bool(rows(stage.demo, "operations/", search=f"'{stage.name}'", status="running"))


def closed_session(stage: Stage) -> dict[str, Any] | None:
    """The agent's one session, once its end is on record."""
    [session] = rows(stage.demo, "sessions/", agent__name=stage.name)
    return session if session["seconds_to_end"] is not None else None


@pytest.mark.parametrize(
    "taken",
    [
        the_agent, the_token, the_token_that_it_was_made_from, the_client, the_trust, the_trust_for_good,
        the_trust_behind_an_exchanged_token, the_trust_for_good_behind_an_exchanged_token, the_sponsor_by_scim,
        the_person_behind_the_agent_by_scim, the_identity_provider_of_the_sponsor, the_target, the_tenant,
    ],
)  # fmt: skip
def test_taking_away_what_a_session_lives_on_ends_psql(stage: Stage, taken: Callable[[Stage], tuple[str, Act]]) -> None:
    password, act = taken(stage)
    with at_work(stage, password) as process:
        act()
        said = process.communicate(timeout=DEAD_SECONDS)[1]
    if taken is the_tenant:
        apply(
            stage.demo, "kind: Tenant\nslug: demo\nname: Demo Shop\n"
        )  # so that the record can be read, and others go on
    assert (process.returncode, "Narrowgate" in said) == (2, True), said
    eventually(lambda: closed_session(stage) is not None)
    session = closed_session(stage)
    assert session is not None
    assert session["seconds_to_end"] < DEAD_SECONDS
    print(f"{taken.__name__.replace('_', ' '):<46}{session['seconds_to_end'] * 1000:>7.0f} ms from revoke to dead")
