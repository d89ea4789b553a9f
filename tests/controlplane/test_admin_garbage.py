"""Whatever is posted to a form of the admin is answered: garbage is a form error, or a value, and never a fault."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django_scopes import scope
from lxml import html

from accounts import actions
from accounts.models import User
from controlplane.authority import Role
from tests.sessions.conftest import Site, acme  # noqa: F401  # a fixture
from tests.sessions.people import furnish, person, signed_in

PAGES = {f"{model._meta.label_lower}": page for model, page in admin.site._registry.items()}
#: No key, and no text that PostgreSQL keeps; and a number that no column holds.
GARBAGE = ("nul\0", "9" * 40)
#: Documents that PostgreSQL doesn't keep either, and one too deep to be read.
DOCUMENTS = ('{"a": "\\u0000"}', '{"a": "\\ud800"}', "[" * 20_000)
#: Names of what a browser sends along by itself.
NOT_FIELDS = ("csrfmiddlewaretoken", "_save", "_continue", "_addanother")


@pytest.fixture
def operator(db: None) -> User:
    """Somebody who manages tenants and people."""
    return actions.save_user(User(email="root@gate.example", is_superuser=True), acting_user=None)


def garbage_for(field: Any) -> tuple[str, ...]:
    """What to write into an element of a form. A number of rows is a small one: Django makes up to a thousand."""
    if field.tag == "textarea":
        return (*GARBAGE, *DOCUMENTS)
    return (GARBAGE[0], "7") if field.name.endswith("_FORMS") else GARBAGE


def form_of(client: Client, url: str, model_name: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """What a browser would send from the page as it is, and the garbage for each field; none where nobody may write."""
    answer = client.get(url)
    if answer.status_code in (403, 404) or b'name="_save"' not in answer.content:
        return {}, {}
    assert answer.status_code == 200, url
    form = html.fromstring(answer.content).get_element_by_id(f"{model_name}_form")
    fields = [name for name in form.fields if name not in NOT_FIELDS and "__prefix__" not in name]
    sent = dict.fromkeys(fields, "") | {name: str(value) for name, value in form.form_values() if name in fields}
    return sent, {name: garbage_for(next(iter(form.xpath(".//*[@name=$name]", name=name)))) for name in fields}


def pages_of(page: ModelAdmin[Any], site: Site) -> list[str]:
    """Where one is added, and where the first is changed."""
    name = f"admin:{page.opts.app_label}_{page.opts.model_name}"
    with scope(tenant=site.tenant):
        row = page.model._default_manager.first()
    return [reverse(f"{name}_add"), *(() if row is None else (reverse(f"{name}_change", args=[row.pk]),))]


def is_fault(client: Client, url: str, sent: dict[str, str]) -> bool:
    """Whether posting this is answered by neither a form nor a redirect. Nothing of it is kept."""
    with transaction.atomic():
        answer = client.post(url, sent)
        transaction.set_rollback(True)
    return answer.status_code not in (200, 302)


@pytest.mark.parametrize("label", sorted(PAGES))
def test_no_garbage_in_any_field_of_any_form_is_a_fault(acme: Site, operator: User, label: str) -> None:  # noqa: F811
    furnish(acme)
    faults = []
    for user in (person(acme.tenant, Role.OWNER), operator):
        client = signed_in(user)
        client.raise_request_exception = False
        for url in pages_of(PAGES[label], acme):
            sent, garbage_of = form_of(client, url, label.rpartition(".")[2])
            for field, garbage in garbage_of.items():
                faults += [(url, field, one[:20]) for one in garbage if is_fault(client, url, {**sent, field: one})]
    assert faults == []
