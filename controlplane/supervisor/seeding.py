"""`python -m controlplane.supervisor.seeding FILE`: apply the demo's objects, issue its tokens, print these as JSON.

A program of its own, run by the supervisor with the control plane's environment: everything in one start of Django.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import django

TENANT: Final = "demo"
ADMIN_EMAIL: Final = "admin@example.com"
#: Who else there is, with the administrator's password: the address and the role.
PEOPLE: Final = {
    "lead@example.com": "admin",
    "approver@example.com": "approver",
    "auditor@example.com": "auditor",
    "viewer@example.com": "viewer",
}
#: One that a rule lets through to the shop, one that none does, one whose changes wait for somebody's yes.
AGENTS: Final = ("support-agent", "intern-agent", "repair-agent")
#: For a day of trying out; each start issues new ones.
TOKEN_LIFETIME: Final = timedelta(hours=12)


def main(manifest: str) -> None:
    """Print `{"agents": {name: token}, "api": token}`."""
    from django.core.management import CommandError, call_command
    from django_scopes import scope

    from accounts.actions import issue_agent_token, issue_api_token
    from accounts.models import Agent, Tenant, User

    try:
        call_command("apply", file=[Path(manifest)], stdout=sys.stderr)
    except CommandError as error:
        sys.exit(str(error))
    tenant = Tenant.objects.get(slug=TENANT)
    with scope(tenant=tenant):
        agents = {
            name: issue_agent_token(Agent.objects.get(name=name), acting_user=None, lifetime=TOKEN_LIFETIME)[1].text
            for name in AGENTS
        }
    admin = User.objects.get(email=ADMIN_EMAIL)
    api = issue_api_token(admin, tenant=tenant, acting_user=None, lifetime=TOKEN_LIFETIME, label="demo")[1].text
    json.dump({"agents": agents, "api": api}, sys.stdout)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from controlplane.origin import Channel, Origin, originating

    with originating(Origin(Channel.CLI)):
        main(sys.argv[1])
