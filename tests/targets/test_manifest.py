"""Targets, credentials, join tokens and policies as documents."""

from __future__ import annotations

import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from accounts.models import Tenant
from controlplane.apply.documents import ManifestError
from controlplane.apply.run import apply_file
from controlplane.ledger.models import LedgerEntry
from policies.engine.model import LABEL_PATTERN
from policies.models import Policy, PolicyVersion
from targets import actions
from targets.access import open_secret
from targets.actions import add_column_label, enrol_worker
from targets.models import COLUMN_LABEL_PATTERN, ColumnLabel, Credential, JoinToken, LabelSource, Target

pytestmark = pytest.mark.django_db(transaction=True)

MANIFEST = """\
kind: Policy
tenant: acme
name: support
rules:
  - {name: read, effect: allow, agents: ["report*"], targets: [shop]}
---
kind: Credential
tenant: acme
target: shop
username: gate
secret: {env: SHOP_PASSWORD}
---
kind: JoinToken
tenant: acme
worker: edge-1
file: join-token
---
kind: Target
tenant: acme
name: shop
host: db.acme.internal
database: shop_live
ca: {file: ca.pem}
labels: {team: orders}
"""


class Applier:
    """Applies one file in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "acme.yaml"
        self.token_file = folder / "join-token"
        self.environ = {"SHOP_PASSWORD": "first-upstream-secret"}
        self.file.write_text(MANIFEST)
        (folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")

    def apply(self, *, dry_run: bool = False) -> str:
        """What was told."""
        told: list[str] = []
        apply_file(self.file, environ=self.environ, dry_run=dry_run, tell=told.append)
        return "\n".join(told)


@pytest.fixture
def applier(tmp_path: Path, db: None) -> Applier:
    """With tenant acme in place."""
    Tenant.objects.create(slug="acme", name="Acme")
    return Applier(tmp_path)


def test_all_kinds_are_brought_about_in_their_order(applier: Applier) -> None:
    told = applier.apply()
    with scopes_disabled():
        target = Target.objects.select_related("credential").get()
        version = Policy.objects.select_related("current").get().current
        assert version is not None
    assert (target.host, target.labels, target.tls_mode) == ("db.acme.internal", {"team": "orders"}, "verify-full")
    assert (target.credential.username, open_secret(target.credential)) == ("gate", "first-upstream-secret")
    assert (version.number, version.rules[0]["name"]) == (1, "read")
    assert stat.S_IMODE(applier.token_file.stat().st_mode) == 0o600
    assert "first-upstream-secret" not in told
    assert applier.token_file.read_text().strip() not in told


def test_the_second_time_there_is_nothing_to_do(applier: Applier) -> None:
    applier.apply()
    token = applier.token_file.read_text()
    assert applier.apply() == ""
    assert applier.token_file.read_text() == token
    with scopes_disabled():
        assert (PolicyVersion.objects.count(), JoinToken.objects.count()) == (1, 1)


def test_a_dry_run_tells_and_leaves_nothing_behind(applier: Applier) -> None:
    assert "+ Target shop" in applier.apply(dry_run=True)
    assert not applier.token_file.exists()
    with scopes_disabled():
        assert not Target.objects.exists()
        assert not LedgerEntry.objects.exists()


def test_a_new_secret_is_told_as_changed_and_nothing_more(applier: Applier) -> None:
    applier.apply()
    applier.environ["SHOP_PASSWORD"] = "second-upstream-secret"
    told = applier.apply()
    assert told.splitlines()[0] == "~ Credential gate on shop"
    assert "second-upstream-secret" not in told
    with scopes_disabled():
        assert open_secret(Credential.objects.get()) == "second-upstream-secret"


def test_changed_rules_publish_a_version_and_keep_the_earlier_one(applier: Applier) -> None:
    applier.apply()
    applier.file.write_text(MANIFEST.replace("targets: [shop]", "targets: [shop, 'archive*']"))
    applier.apply()
    with scopes_disabled():
        assert list(PolicyVersion.objects.order_by("number").values_list("number", flat=True)) == [1, 2]
        current = Policy.objects.select_related("current").get().current
        assert current is not None
        assert current.number == 2


@pytest.mark.parametrize("what", ["used up", "expired", "gone"])
def test_a_join_token_that_is_of_no_use_is_replaced(applier: Applier, what: str) -> None:
    applier.apply()
    first = applier.token_file.read_text()
    if what == "gone":
        applier.token_file.unlink()
    with scopes_disabled(), transaction.atomic():
        now = timezone.now()
        changes = {"used up": {"last_used_at": now}, "expired": {"expires_at": now}}.get(what, {"label": "forgotten"})
        JoinToken.objects.update(**changes)
    applier.apply()
    assert applier.token_file.read_text() != first


def test_no_join_token_is_made_for_a_worker_that_has_enrolled(applier: Applier) -> None:
    applier.apply()
    text = applier.token_file.read_text().strip()
    enrol_worker(join_token=text, name="edge-1", public_key=b"k" * 32, now=timezone.now() + timedelta(seconds=1))
    applier.token_file.unlink()
    assert applier.apply() == ""
    assert not applier.token_file.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shop", "name: Shop_1", "document 4 (Target): name"),
        ("host: db.acme.internal", "host: db.acme.internal\nport: 70000", "document 4 (Target): port"),
        ("target: shop", "target: nope", "document 2 (Credential): target: there is no target 'nope'"),
        ('agents: ["report*"]', "agents: []", "document 1 (Policy): rules[0].agents"),
        ("effect: allow", "effect: maybe", "document 1 (Policy): rules"),
        ("worker: edge-1", "worker: Edge 1", "document 3 (JoinToken): worker"),
        ("{env: SHOP_PASSWORD}", "{env: NOT_SET}", "document 2 (Credential): secret.env"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(applier: Applier, old: str, new: str, message: str) -> None:
    applier.file.write_text(MANIFEST.replace(old, new))
    with pytest.raises(ManifestError) as refused:
        applier.apply()
    assert str(refused.value).startswith(message)
    with scopes_disabled():
        assert not Target.objects.exists()


def test_a_credential_opens_only_in_its_own_row(applier: Applier) -> None:
    applier.apply()
    with scope(tenant=Tenant.objects.get()):
        credential = Credential.objects.get()
        moved = Credential(target=credential.target, sealed_secret=credential.sealed_secret)
        with pytest.raises(Exception, match="belongs elsewhere"):
            open_secret(moved)


LABELS = """\
kind: ColumnLabels
tenant: acme
target: shop
columns:
  - {table: customers, column: email, labels: [email, pii]}
  - {schema: Sales, table: Big Orders, column: mail, labels: [email]}
"""


def test_labels_of_columns_are_what_the_file_lists(applier: Applier) -> None:
    applier.apply()
    applier.file.write_text(LABELS)
    assert applier.apply().startswith("+ ColumnLabels shop")
    assert applier.apply() == ""
    with scopes_disabled():
        assert {str(label) for label in ColumnLabel.objects.all()} == {
            "shop public.customers.email email", "shop public.customers.email pii", "shop Sales.Big Orders.mail email"
        }  # fmt: skip
        target = Target.objects.select_related("tenant").get()
    found = ColumnLabel(
        tenant=target.tenant, target=target, table="t", column="c", label="card", source=LabelSource.DISCOVERY
    )
    with scope(tenant=target.tenant):
        add_column_label(found, acting_user=None)
    applier.file.write_text(LABELS.replace(", pii", ""))
    told = applier.apply()
    assert told.startswith("~ ColumnLabels shop")
    assert "public.customers.email pii" in told
    with scopes_disabled():
        assert ColumnLabel.objects.filter(source=LabelSource.DISCOVERY).count() == 1
        entries = LedgerEntry.objects.filter(kind__startswith="column_label.").order_by("seq")
        assert [entry.kind for entry in entries] == ["column_label.created"] * 4 + ["column_label.deleted"]


def test_a_target_has_a_bounded_number_of_labels(applier: Applier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_COLUMN_LABELS", 2)
    applier.apply()
    applier.file.write_text(LABELS)
    with pytest.raises(ManifestError, match="2 labels, which is all it may have"):
        applier.apply()
    with scopes_disabled():
        assert not ColumnLabel.objects.exists()


def test_labels_have_the_form_that_policies_know() -> None:
    assert re.fullmatch(r"\^(.*)\\Z", COLUMN_LABEL_PATTERN).group(1) == LABEL_PATTERN  # type: ignore[union-attr]
