"""`manage.py issue_token`, and what Django's own commands do with our accounts."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.identify import identify_agent
from accounts.models import User
from accounts.tasks import forget_old_tokens
from tests.accounts.conftest import Site


def issue(**options: Any) -> str:
    out = StringIO()
    call_command("issue_token", stdout=out, **{"tenant": "acme", "agent": "reporter", **options})
    return out.getvalue()


def test_it_prints_the_token_alone(acme: Site) -> None:
    printed = issue(ttl=900)
    assert printed.count("\n") == 1
    assert identify_agent(printed.strip(), now=timezone.now()).agent == acme.agent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tenant": "nowhere"}, "there is no tenant nowhere"),
        ({"agent": "nobody"}, "there is no agent nobody in tenant acme"),
        ({"ttl": 5}, "Use 60 to 86400 seconds"),
    ],
)
def test_it_says_what_is_wrong(acme: Site, options: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        issue(**options)


@pytest.mark.django_db
def test_createsuperuser_makes_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a-long-enough-phrase")
    call_command("createsuperuser", interactive=False, email="Root@gate.example", stdout=StringIO())
    root = User.objects.get()
    assert (root.email, root.is_superuser, root.is_staff) == ("root@gate.example", True, True)


@pytest.mark.django_db
def test_the_task_that_forgets_tokens_runs() -> None:
    assert forget_old_tokens() == 0


@pytest.mark.django_db(transaction=True)
def test_migrations_of_accounts_and_ledger_are_complete() -> None:
    call_command("makemigrations", "accounts", "ledger", check=True, dry_run=True, stdout=StringIO())
