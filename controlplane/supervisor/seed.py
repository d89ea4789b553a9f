"""Sets the demo up in the control plane, through `manage.py apply`, and tells others what there is to try.

Files in the home folder, all with mode 0600: `demo.json` for programs, and for people's commands `agent-token`,
`agent.pgpass` (libpq's password file), `api-header` (for curl) and `demo.env` (for `manage.py`).
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from string import Template
from typing import TYPE_CHECKING, Any, Final

import httpx

from controlplane.supervisor import target
from controlplane.supervisor.children import run_to_end
from controlplane.supervisor.embedded import START_SECONDS, StartFailed, tail, write_private
from controlplane.supervisor.layout import PROJECT, WORKER
from controlplane.supervisor.seeding import ADMIN_EMAIL, AGENTS, PEOPLE, TENANT, TOKEN_LIFETIME

if TYPE_CHECKING:
    from pathlib import Path

    from controlplane.supervisor.layout import Layout

_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Demo:
    """What runs, and how to reach it."""

    layout: Layout
    ca_file: Path
    expires_at: datetime
    agent_tokens: dict[str, str] = field(repr=False)
    api_token: str = field(repr=False)

    @property
    def token_file(self) -> Path:
        return self.layout.home / "agent-token"

    @property
    def password_file(self) -> Path:
        """libpq's form: for each agent a line, by which `user` picks the token."""
        return self.layout.home / "agent.pgpass"

    @property
    def header_file(self) -> Path:
        return self.layout.home / "api-header"

    def dsn(self, agent: str) -> str:
        """How an agent reaches the target, but for the password."""
        return (
            f"host=localhost port={self.layout.gate_port} dbname={target.DATABASE} user={agent}"
            f" sslmode=verify-full sslrootcert={self.ca_file}"
        )

    def as_json(self) -> dict[str, Any]:
        """`demo.json`: every endpoint, token and login."""
        layout = self.layout
        return {
            "version": 1,
            "home": str(layout.home),
            "port_base": layout.port_base,
            "tenant": TENANT,
            "web": {
                "url": layout.web_url,
                "admin_url": f"{layout.web_url}/admin/",
                "api_url": f"{layout.web_url}/api/v1/",
                "email": ADMIN_EMAIL,
                "password": layout.secret("admin-password"),
                "api_token": self.api_token,
                "people": PEOPLE,
            },
            "gate": {
                "host": "localhost",
                "port": layout.gate_port,
                "database": target.DATABASE,
                "ca_file": str(self.ca_file),
                "password_file": str(self.password_file),
            },
            "agents": {
                name: {"token": token, "dsn": self.dsn(name), "expires_at": self.expires_at.isoformat()}
                for name, token in self.agent_tokens.items()
            },
            "target": {
                "host": "localhost",
                "port": layout.target_port,
                "database": target.DATABASE,
                "role": target.ROLE,
                "ca_file": str(self.ca_file),
                "superuser_password_file": str(layout.home / "target" / "superuser-password"),
            },
            "processes_file": str(layout.home / "processes.json"),
            "log_folder": str(layout.log_folder),
        }


async def seed(layout: Layout, *, target_password: str, ca_file: Path) -> Demo:
    """Apply the objects and issue tokens. Raises `StartFailed` with what `apply` complained of."""
    password_file = layout.run_folder / "target-password"
    manifest = layout.run_folder / "shop.yaml"
    write_private(manifest, _manifest(layout, password_file=password_file, ca_file=ca_file))
    write_private(password_file, target_password)
    try:
        output = await run_to_end(
            "seed",
            (sys.executable, "-m", "controlplane.supervisor.seeding", str(manifest)),
            folder=PROJECT,
            log_folder=layout.log_folder,
            environment=layout.control_plane_environment(),
        )
    finally:
        password_file.unlink()  # from here on the control plane alone has it
    tokens = json.loads(output)
    return Demo(
        layout=layout,
        ca_file=ca_file,
        expires_at=datetime.now(UTC) + TOKEN_LIFETIME,
        agent_tokens=tokens["agents"],
        api_token=tokens["api"],
    )


def _manifest(layout: Layout, *, password_file: Path, ca_file: Path) -> str:
    template = Template((PROJECT / "controlplane/supervisor/demo/shop.yaml").read_text())
    values: dict[str, str | int] = {
        "admin_email": ADMIN_EMAIL,
        "admin_password_file": str(layout.secret_folder / "admin-password"),
        "target_port": layout.target_port,
        "target_database": target.DATABASE,
        "target_role": target.ROLE,
        "target_password_file": str(password_file),
        "ca_file": str(ca_file),
        "worker": WORKER,
        "join_token_file": str(layout.join_token_file),
    }
    # JSON's form of a value is YAML's too, whatever is in a path.
    return template.substitute({name: json.dumps(value) for name, value in values.items()})


async def await_worker(demo: Demo, *, since: datetime) -> None:
    """Wait until the worker has signed on after `since`: before that, it refuses agents. Raises `StartFailed`."""
    headers = {"Authorization": f"Bearer {demo.api_token}"}
    try:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(headers=headers, trust_env=False) as client:
            while True:
                if await _has_signed_on(client, f"{demo.layout.web_url}/api/v1/workers/", since=since):
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise StartFailed("worker", "did not sign on", tail(demo.layout.log_folder / "worker.log")) from None


async def _has_signed_on(client: httpx.AsyncClient, url: str, *, since: datetime) -> bool:
    answer = await client.get(url, params={"name": WORKER})
    answer.raise_for_status()
    seen = [worker["last_seen_at"] for worker in answer.json()["results"]]
    return any(at is not None and datetime.fromisoformat(at) >= since for at in seen)


def publish(demo: Demo) -> None:
    """Write the files that the module's text names; `demo.json` last, because scripts wait for it."""
    gate = f"localhost:{demo.layout.gate_port}:{target.DATABASE}"
    lines = "".join(f"{gate}:{agent}:{token}\n" for agent, token in demo.agent_tokens.items())
    write_private(demo.token_file, demo.agent_tokens[AGENTS[0]])
    write_private(demo.password_file, lines)
    write_private(demo.header_file, f"Authorization: Bearer {demo.api_token}\n")
    variables = demo.layout.command_environment().items()
    write_private(
        demo.layout.environment_file, "".join(f"{name}={shlex.quote(text)}\n" for name, text in sorted(variables))
    )
    write_private(demo.layout.demo_file, json.dumps(demo.as_json(), indent=2) + "\n")
