"""`manage.py apply`: strict documents, a readable diff, all or nothing, and nothing the second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django_scopes import scope, scopes_disabled

from accounts.models import Agent, Membership, OidcTrust, Tenant, TrustRule, User
from controlplane.ledger.models import LedgerEntry

pytestmark = pytest.mark.django_db

SETUP: list[dict[str, Any]] = [
    # Out of order on purpose: kinds have ranks.
    {
        "kind": "OidcTrust",
        "tenant": "acme",
        "name": "workforce",
        "issuer": "https://idp.example",
        "audience": "gate",
        "rules": [{"conditions": ["sub = reporter-prod"], "agent": "reporter"}],
    },
    {"kind": "Agent", "tenant": "acme", "name": "reporter", "sponsor": "ada@acme.example", "groups": ["b", "a"]},
    {"kind": "User", "email": "Ada@acme.example", "password": {"env": "ADA_PASSWORD"}, "roles": {"acme": "owner"}},
    {"kind": "Tenant", "slug": "acme", "name": "Acme"},
]
PASSWORD = "a-long-enough-phrase"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADA_PASSWORD", PASSWORD)
    return write(tmp_path / "setup.yaml", SETUP)


def write(path: Path, documents: list[dict[str, Any]]) -> Path:
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def changed(path: Path, index: int, **fields: Any) -> Path:
    documents = [dict(document) for document in SETUP]
    documents[index] |= fields
    return write(path, documents)


def apply(capsys: pytest.CaptureFixture[str], path: Path, **options: Any) -> str:
    call_command("apply", file=[path], **options)
    return capsys.readouterr().out


def test_what_a_file_describes_comes_about(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = apply(capsys, file)
    assert told.endswith("setup.yaml: 4 changes\n")
    assert (
        told.index("+ Tenant acme") < told.index("+ User ada@") < told.index("+ Agent rep") < told.index("+ OidcTrust")
    )
    ada = User.objects.get(email="ada@acme.example")
    assert ada.check_password(PASSWORD)
    with scope(tenant=Tenant.objects.get()):
        assert Membership.objects.get(user=ada).role == "owner"
        agent = Agent.objects.get()
        assert (agent.sponsor, agent.groups) == (ada, ["a", "b"])
        assert TrustRule.objects.get().agent == agent


def test_the_second_time_nothing_changes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply(capsys, file)
    with scopes_disabled():
        entries = LedgerEntry.objects.count()
    assert apply(capsys, file) == "setup.yaml: no changes\n"
    with scopes_disabled():
        assert LedgerEntry.objects.count() == entries


def test_a_dry_run_tells_and_keeps_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = apply(capsys, file, dry_run=True)
    assert "+ Agent reporter" in told
    assert "nothing is kept" in told
    assert not Tenant.objects.exists()
    assert not User.objects.exists()


def test_no_secret_is_in_the_diff_or_the_ledger(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = apply(capsys, file)
    assert "password: (changed)" in told
    assert PASSWORD not in told
    with scopes_disabled():
        assert not any(PASSWORD in str(entry.after) for entry in LedgerEntry.objects.all())


@pytest.mark.parametrize(
    ("index", "fields", "lines"),
    [
        (1, {"groups": ["a"]}, ["~ Agent reporter", "    groups: ['a', 'b'] → ['a']"]),
        (1, {"is_active": False}, ["~ Agent reporter", "    is_active: True → False"]),
        (1, {"sponsor": None}, ["~ Agent reporter", "    sponsor: ada@acme.example → (unset)"]),
        (2, {"roles": {"acme": "viewer"}}, ["~ User ada@acme.example", "    roles.acme: owner → viewer"]),
        (3, {"name": "Acme Inc."}, ["~ Tenant acme", "    name: Acme → Acme Inc."]),
        (0, {"rules": []}, ["~ OidcTrust workforce", "    rules: ['sub = reporter-prod → reporter'] → (unset)"]),
        (0, {"clock_skew_seconds": 5}, ["~ OidcTrust workforce", "    clock_skew_seconds: 30 → 5"]),
    ],
)
def test_a_change_is_told_by_its_fields(
    file: Path, capsys: pytest.CaptureFixture[str], index: int, fields: dict[str, Any], lines: list[str]
) -> None:
    apply(capsys, file)
    told = apply(capsys, changed(file, index, **fields))
    assert told.splitlines() == [*lines, "setup.yaml: 1 change"]
    assert apply(capsys, file) == "setup.yaml: no changes\n"


def test_a_password_is_told_only_when_it_is_another(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(capsys, file)
    monkeypatch.setenv("ADA_PASSWORD", "another-long-phrase")
    assert "password: (unset) → (changed)" in apply(capsys, file)
    assert apply(capsys, file) == "setup.yaml: no changes\n"


def test_a_secret_may_come_from_a_file_beside_the_yaml(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "ada.secret").write_text(PASSWORD + "\n")
    apply(capsys, changed(file, 2, password={"file": "ada.secret"}))
    assert User.objects.get().check_password(PASSWORD)


@pytest.mark.parametrize(
    ("index", "fields", "said"),
    [
        (1, {"groups": "a"}, ["document 2 (Agent): groups: ", "array", "str"]),
        (1, {"grups": ["a"]}, ["document 2 (Agent): ", "grups", "The fields of this kind are tenant, name"]),
        (1, {"groups": ["a", 7]}, ["document 2 (Agent): groups[1]"]),
        (1, {"tenant": "nowhere"}, ["document 2 (Agent): tenant: there is no tenant 'nowhere'"]),
        (1, {"sponsor": "nobody@acme.example"}, ["document 2 (Agent): sponsor: there is no user"]),
        (1, {"name": "Not A Name"}, ["document 2 (Agent): name: ", "small letters"]),
        (1, {"kind": "Agnet"}, ["document 2: kind: 'Agnet' is unknown", "did you mean Agent"]),
        (1, {"kind": None}, ["document 2: kind: is missing"]),
        (2, {"roles": {"acme": "king"}}, ["document 3 (User): roles", "king"]),
        (2, {"roles": {"nowhere": "owner"}}, ["document 3 (User): roles.nowhere: there is no such tenant"]),
        (2, {"password": "plain-text-password"}, ["document 3 (User): password: "]),
        (2, {"password": {"env": "NOT_SET"}}, ["document 3 (User): password.env: variable NOT_SET is not set"]),
        (2, {"password": {"file": "gone"}}, ["document 3 (User): password.file: gone is no readable text"]),
        (2, {"password": {}}, ["document 3 (User): password: names not exactly one source"]),
        (2, {"password": {"env": "SHORT"}}, ["document 3 (User): password: ", "too short"]),
        (0, {"issuer": "http://idp.example"}, ["document 1 (OidcTrust): issuer: ", "https"]),
        (0, {"algorithms": ["HS256"]}, ["document 1 (OidcTrust): algorithms"]),
        (
            0,
            {"rules": [{"conditions": ["sub = x"], "agent": "nobody"}]},
            ["document 1 (OidcTrust): rules[0].agent: there is no"],
        ),
    ],
)
def test_an_error_names_document_field_and_fix_and_nothing_is_kept(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    fields: dict[str, Any],
    said: list[str],
) -> None:
    monkeypatch.setenv("SHORT", "x1y2")
    with pytest.raises(CommandError) as caught:
        apply(capsys, changed(file, index, **fields))
    for part in said:
        assert part in str(caught.value)
    assert "plain-text-password" not in str(caught.value)
    assert not Tenant.objects.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Tenant\nslug: a\nslug: b\nname: x\n", "there twice"),
        ("a: &a [1]\nb: *a\n", "aliases"),
        ("kind: Tenant\n  slug: [", "line 2"),
        ("- kind: Tenant\n", "kind: is missing"),
        ("!!python/object:os.system {}\n", "could not determine a constructor"),
        ("1: x\n", "no text"),
        ("kind: Tenant\nslug: \x00\n", "no UTF-8 text"),
    ],
)
def test_yaml_is_read_strictly(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(CommandError, match=said):
        call_command("apply", file=[path])


def test_a_file_that_isnt_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be read: No such file"):
        call_command("apply", file=[tmp_path / "gone.yaml"])


def test_an_empty_file_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(capsys, write(tmp_path / "empty.yaml", [])) == "empty.yaml: no changes\n"


def test_what_is_applied_is_in_the_ledger_as_the_systems_doing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply(capsys, file)
    with scopes_disabled():
        entries = LedgerEntry.objects.order_by("seq")
        assert {entry.actor for entry in entries} == {"system"}
        assert [entry.kind for entry in entries] == [
            "tenant.created",
            "membership.created",
            "agent.created",
            "oidc_trust.created",
        ]


def test_the_documentations_example_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = Path("docs/apply.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    (tmp_path / "ada.password").write_text(PASSWORD)
    assert apply(capsys, tmp_path / "example.yaml").endswith("example.yaml: 4 changes\n")


def test_a_trust_of_another_name_may_not_repeat_issuer_and_audience(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apply(capsys, file)
    with pytest.raises(CommandError, match="OidcTrust"):
        apply(capsys, changed(file, 0, name="other"))
    with scopes_disabled():
        assert OidcTrust.objects.get().name == "workforce"
