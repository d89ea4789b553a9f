"""Whatever is changed over REST or in the admin is told in the ledger, and is not changed where that can't be kept.

Each endpoint that writes is tried twice: with a ledger that takes nothing, after which every table has to be as it was;
and as it is, after which either the ledger has grown or, still, nothing is different. The endpoints are the router's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pytest
from django.contrib import admin
from django.db import connection, transaction
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django_scopes import scope

from accounts.actions import save_user
from accounts.federation.models import FederatedIdentity
from accounts.models import Tenant, User
from accounts.scim.actions import provision, save_group
from accounts.scim.models import ScimGroup
from accounts.signin.models import SignIn, SignInMethod
from controlplane.authority import Role
from controlplane.ledger import actions as ledger
from controlplane.tenancy import every_tenant
from policies.actions import publish_version, save_draft, save_policy
from policies.models import Policy, PolicyDraft
from policies.simulation.models import RunState, Suggestion
from targets.actions import save_target
from targets.models import Target
from tests.sessions.conftest import Site
from tests.sessions.people import person, signed_in
from tests.sessions.test_permissions import MATRIX, RULES, ask, rows, with_own_token

__all__ = ["rows"]

pytestmark = pytest.mark.django_db

#: What notes that somebody was there, and the ledger itself.
NOT_LOOKED_AT: Final = frozenset({"django_session", "accounts_signin"})
LEDGER: Final = "ledger_"


class LedgerIsGone(BaseException):
    """Nothing can be appended. No view takes it for an error of its own, nor does anybody log it."""


def tables() -> dict[str, tuple[int, int]]:
    """How many rows each table has, and a digest of them, whatever their order."""
    names = [name for name in connection.introspection.table_names() if name not in NOT_LOOKED_AT]
    digest = "coalesce(sum(hashtext(t::text)::bigint), 0)"
    asked = " UNION ALL ".join(f"""SELECT '{name}', count(*), {digest} FROM "{name}" t""" for name in names)
    with every_tenant(), connection.cursor() as cursor:
        cursor.execute(asked)
        return {name: (count, int(digest)) for name, count, digest in cursor.fetchall()}


def changed(before: dict[str, tuple[int, int]]) -> tuple[set[str], bool]:
    """The tables that differ, without the ledger's, and whether the ledger does."""
    now = tables()
    differing = {name for name in now if now[name] != before[name]}
    told = {name for name in differing if name.startswith(LEDGER)}
    return differing - told, bool(told)


@contextmanager
def undone() -> Iterator[None]:
    """What happens within has not happened."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def why_not_ledgered(do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with how it is told; empty: it changed something and told so. `do` answers with a response."""
    before = tables()
    with undone(), monkeypatch.context() as patched:

        def refuse(*_: Any, **__: Any) -> None:
            raise LedgerIsGone

        patched.setattr(ledger, "_append", refuse)
        with suppress(LedgerIsGone):
            do()
        differing, _ = changed(before)
        if differing:
            return f"without a ledger it changed {sorted(differing)}"
    with undone():
        answer = do()
        if answer.status_code >= 400:
            return f"it was refused: {answer.status_code} {answer.content[:300]!r}"
        differing, is_told = changed(before)
    if is_told:
        return ""
    return f"it changed {sorted(differing)} and told nobody" if differing else f"it changed nothing{errors_in(answer)}"


def errors_in(answer: Any) -> str:
    """What a form that is shown again says of what was sent."""
    context = getattr(answer, "context_data", None) or {}
    form = context["adminform"].form if "adminform" in context else context.get("form")
    return f": {dict(form.errors)}" if form is not None and form.errors else ""


@pytest.fixture
def owner(acme: Site, rows: dict[str, Any]) -> Client:
    """Their browser. What doesn't answer, answers 500."""
    user = person(acme.tenant, Role.OWNER)
    with_own_token(user, acme, rows)
    client = signed_in(user)
    client.raise_request_exception = False
    return client


def prepare(acme: Site, rows: dict[str, Any]) -> None:
    """Rows that the matrix has none of, and those about which succeeds what is refused there."""
    owner = User.objects.get(email="owner@acme.example")
    with scope(tenant=acme.tenant):
        spare = Target(tenant=acme.tenant, name="a-spare", host="db3.internal", database="spare")
        save_target(spare, acting_user=None)  # the first to choose from: it has no credential yet
        nightly = Policy(tenant=acme.tenant, name="nightly", is_active=False)  # so that it voids nothing else
        save_policy(nightly, acting_user=None)
        earlier = publish_version(nightly, rules=RULES, message="first", acting_user=None)
        stale = PolicyDraft(policy=nightly)
        save_draft(stale, scope={}, rules=RULES, message="", acting_user=None)
        publish_version(nightly, rules=[], message="second", acting_user=None)
        begun = PolicyDraft(policy=nightly)
        save_draft(begun, scope={}, rules=RULES, message="", acting_user=owner)
        Suggestion.objects.update(state=RunState.DONE, rules=RULES)
        acme.session()  # which nobody has stopped yet
        member = provision(acme.tenant, user_name="sam@acme.example")
        save_group(ScimGroup(tenant=acme.tenant, display_name="data-team"), acting_user=None)
        provider = rows["identity-provider"]
        FederatedIdentity.objects.create(tenant=acme.tenant, provider=provider, subject="s-1", user=member.user)
        SignIn.objects.create(
            tenant=acme.tenant,
            user=member.user,
            provider=provider,
            method=SignInMethod.OIDC,
            expires_at=timezone.now() + timedelta(hours=1),
        )
    rows |= {"spare": spare, "earlier": earlier, "begun": begun}


#: What answers a question.
ONLY_TELL: Final = frozenset({"POST oidc-trust-dry-run", "POST identity-provider-test", "POST policie-check"})
#: Of the matrix' rows that are refused there: about what they succeed here, and what is sent.
INSTEAD: Final[dict[str, tuple[dict[str, str], dict[str, Any]]]] = {
    "DELETE target-detail": ({"target": "spare"}, {}),
    "POST policy-version-restore": ({"policy-version": "earlier"}, {}),
    "POST policy-draft-propose": ({"policy-draft": "begun"}, {}),
    "POST credential-list": ({"target": "spare"}, {"username": "x", "secret": "hidden4711"}),
}


def test_whatever_is_changed_over_rest_is_told_in_the_same_transaction(
    acme: Site, rows: dict[str, Any], owner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(acme, rows)
    wrong = {}
    for endpoint in MATRIX:
        if endpoint.startswith("GET"):
            continue
        others, body = INSTEAD.get(endpoint, ({}, {}))
        about = {**rows, **{name: rows[other] for name, other in others.items()}}
        row = MATRIX[endpoint]
        with monkeypatch.context() as patched:
            patched.setitem(MATRIX, endpoint, row._replace(body={**(row.body or {}), **body} or None))
            problem = why_not_ledgered(partial(ask, owner, endpoint, about), monkeypatch)
        if problem != ("it changed nothing" if endpoint in ONLY_TELL else ""):
            wrong[endpoint] = problem
    assert not wrong, json.dumps(wrong, indent=1)


# ---------------------------------------------------------------- the admin

#: Pages that lead to another one, or are a file.
LEAD_ELSEWHERE: Final = frozenset(
    {
        "accounts_agent_stop",
        "accounts_tenant_stop",
        "targets_target_stop",
        "agent_sessions_killorder_stop_everything",
        "policies_policydraft_edit",
        "policies_policy_export",
    }
)
#: Pages that only tell something of what is sent.
CHANGE_NOTHING: Final = frozenset(
    {"accounts_identityprovider_test_provider", "accounts_oidctrust_use_preset", "accounts_oidctrust_try_claims"}
)
#: So do those that an editor's script asks while somebody types, by POST alone.
ASKED_BY_SCRIPTS: Final = "_check"
#: What Django offers of each model. Not offered to anybody, it answers 403 or shows the row alone.
STANDARD: Final = ("_add", "_change", "_delete")
#: What is typed where a field has no value yet, by the field's name.
TYPED: Final[dict[str, str]] = {
    "reason": "enough",
    "email": "new@acme.example",
    "name": "another",
    "slug": "another",
    "host": "db4.internal",
    "database": "another",
    "issuer": "https://another.example",
    "audience": "another",
    "client_id": "x",
    "client_secret": "hidden4711",
    "secret": "hidden4711",
    "username": "x",
    "worker_name": "edge-4",
    "comment": "x",
    "message": "x",
    "display_name": "another",
    "token_or_claims": "{}",
}
#: Tried first, of the fields that a page offers: to change a row takes another value.
CHANGED_FIRST: Final = ("description", "name", "label", "username", "role", "is_active")


def admin_pages() -> Iterator[tuple[str, Any]]:
    """The names of the admin's pages that may write, and the model that each is about."""
    for model, page in admin.site._registry.items():
        for pattern in page.get_urls():
            name = str(pattern.name or "")
            if name and not name.endswith(("_changelist", "_history")):
                yield name, model


def addresses(name: str, model: Any) -> list[str]:
    """Where the page is: about each row of its model, if it is about one."""
    try:
        return [reverse(f"admin:{name}")]
    except NoReverseMatch:
        with every_tenant():
            found = list(model._base_manager.all())
    if name == "kill-switch":
        return [reverse(f"admin:{name}", args=["target", order.target_id]) for order in found]
    return [reverse(f"admin:{name}", args=[row.pk]) for row in found]


def filled_in(page: Any, name: str) -> dict[str, Any]:
    """What a person sends who fills the page's form in; of a row, with one thing changed of what is there."""
    if name.endswith("_delete"):
        return {"post": "yes"}
    context = page.context_data or {}
    form = context["adminform"].form if "adminform" in context else context.get("form")
    if form is None:  # the policy editor, by its script
        document = json.dumps({"document": {"scope": {}, "rules": RULES}})
        return {"sent": document, "message": "x", "wanted": "keep"}
    data: dict[str, Any] = {}
    for inline in context.get("inline_admin_formsets", ()):
        for part in (inline.formset.management_form, *inline.formset.forms):
            data |= {one.html_name: said(one) for one in part if said(one) is not None}
    for one in form:
        value = said(one)
        if value in ("", []) and not name.endswith("_change"):
            value = TYPED.get(one.name, first_choice(one.field) if one.field.required else value)
        if value not in (None, "", []):  # what isn't sent is empty
            data[one.html_name] = value
    if name.endswith("_change"):
        change(data, next((form[field] for field in CHANGED_FIRST if field in form.fields), None))
    return data


def said(one: Any) -> Any:
    """A field's value as a browser sends it; None: not at all."""
    value = one.value()
    if isinstance(value, bool):
        return "on" if value else None
    if isinstance(value, list | tuple | set):
        return [str(each) for each in value]
    return "" if value is None else str(value)


def offered_by(field: Any) -> list[str]:
    """What there is to choose from."""
    return [str(value) for value, _ in getattr(field, "choices", ()) if str(value)]


def first_choice(field: Any) -> str:
    """The first that a field offers; a text for one that offers nothing."""
    return next(iter(offered_by(field)), "x")


def change(data: dict[str, Any], one: Any) -> None:
    """Have the field say something else."""
    if one is None:
        return
    now = data.pop(one.html_name, None)
    if choices := offered_by(one.field):
        data[one.html_name] = next(value for value in choices if value != now)
    elif not isinstance(one.value(), bool):
        data[one.html_name] = f"{now}x"
    elif now is None:
        data[one.html_name] = "on"


@pytest.fixture
def operator(db: None) -> Client:
    """Of the installation."""
    user = save_user(User(email="root@gate.example", is_superuser=True), acting_user=None)
    client = signed_in(user)
    client.raise_request_exception = False
    return client


def outcomes(name: str, model: Any, clients: tuple[Client, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each try at the page went, the last one "" when it was told as it has to be."""
    tried = []
    for client, where in itertools.product(clients, addresses(name, model)):
        page = client.get(where)
        if page.status_code != 200:
            tried.append(str(page.status_code))
            continue
        if name.endswith("_change") and not (page.context_data or {})["has_change_permission"]:
            tried.append("to look at")
            continue
        with every_tenant():  # the fields' choices are looked up
            data = filled_in(page, name)
        tried.append(why_not_ledgered(partial(client.post, where, data), monkeypatch))
        if not tried[-1]:
            break
    return tried


@pytest.mark.parametrize("app", sorted({model._meta.app_label for model in admin.site._registry}))
def test_whatever_is_changed_in_the_admin_is_told_in_the_same_transaction(
    acme: Site, rows: dict[str, Any], owner: Client, operator: Client, monkeypatch: pytest.MonkeyPatch, app: str
) -> None:
    prepare(acme, rows)
    excused = LEAD_ELSEWHERE | CHANGE_NOTHING
    pages = {name: model for name, model in admin_pages() if name not in excused and not is_asked_by_script(name)}
    left = {name: model for name, model in pages.items() if model._meta.app_label == app}
    wrong: dict[str, list[str]] = {}
    for wants_review in (False, True):  # some are offered where a review is wanted, others where none is
        Tenant.objects.filter(pk=acme.tenant.pk).update(requires_review=wants_review)
        for name, model in list(left.items()):
            wrong[name] = tried = outcomes(name, model, (owner, operator), monkeypatch)
            is_offered = not set(tried) <= {"403", "404", "to look at"}
            if tried[-1:] == [""] or (name.endswith(STANDARD) and tried and not is_offered):
                del left[name]
    assert not left, json.dumps({name: wrong[name] for name in left}, indent=1)


def is_asked_by_script(name: str) -> bool:
    """No form leads there."""
    return name.endswith(ASKED_BY_SCRIPTS)


@pytest.mark.parametrize("name", sorted({name for name, _ in admin_pages() if is_asked_by_script(name)}))
@pytest.mark.parametrize("sent", [{"yaml": "rules: []"}, {"yaml": "stages: []"}, {}])
def test_what_a_script_asks_changes_nothing(
    acme: Site, rows: dict[str, Any], owner: Client, name: str, sent: dict[str, Any]
) -> None:
    before = tables()
    for where in addresses(name, dict(admin_pages())[name]):
        assert owner.post(where, sent, content_type="application/json").status_code < 500
    assert changed(before) == (set(), False)


@pytest.mark.parametrize("name", sorted(CHANGE_NOTHING))
def test_what_only_tells_something_changes_nothing(
    acme: Site, rows: dict[str, Any], owner: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = dict(admin_pages())[name]
    assert outcomes(name, model, (owner,), monkeypatch) == ["it changed nothing"]
