"""Channels out of a YAML file: once, with their secrets, and with a diff that shows none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django_scopes import scope

from accounts.models import Tenant
from policies.notifying.actions import secret_of
from policies.notifying.models import NotificationChannel

pytestmark = pytest.mark.django_db

CHANNEL: dict[str, Any] = {
    "kind": "NotificationChannel",
    "tenant": "acme",
    "name": "dba-slack",
    "channel": "slack",
    "address": "C024BE91L",
    "events": ["approval.opened"],
    "secrets": {"bot_token": {"env": "BOT_TOKEN"}, "signing_secret": {"env": "SIGNING"}},
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT_TOKEN", "xoxb-first")
    monkeypatch.setenv("SIGNING", "signing-first")


def apply(folder: Path, capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    """What applying a file with the tenant and the channel says."""
    file = folder / "setup.yaml"
    file.write_text(yaml.safe_dump_all([{"kind": "Tenant", "slug": "acme", "name": "Acme"}, {**CHANNEL, **fields}]))
    call_command("apply", file=[file])
    return capsys.readouterr().out


def channel() -> NotificationChannel:
    """As it is kept."""
    with scope(tenant=Tenant.objects.get(slug="acme")):
        return NotificationChannel.objects.get()


def test_a_channel_comes_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = apply(tmp_path, capsys)
    assert "xoxb-first" not in told
    assert (channel().address, channel().events) == ("C024BE91L", ["approval.opened"])
    assert secret_of(channel(), "bot_token") == "xoxb-first"
    assert apply(tmp_path, capsys).endswith("no changes\n")


def test_a_new_secret_alone_is_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tmp_path, capsys)
    monkeypatch.setenv("BOT_TOKEN", "xoxb-second")
    told = apply(tmp_path, capsys)
    assert "secrets.bot_token" in told
    assert "xoxb" not in told
    assert secret_of(channel(), "bot_token") == "xoxb-second"
    assert secret_of(channel(), "signing_secret") == "signing-first"


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="address"):
        apply(tmp_path, capsys, address="#general")
