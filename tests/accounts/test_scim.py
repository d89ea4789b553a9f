"""SCIM: a directory brings people and groups, roles follow, who leaves is out at once; and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.errors import BadCredential, SignInRefused
from accounts.federation import actions as federation
from accounts.federation.persons import Person
from accounts.identify import identify_agent
from accounts.models import AgentToken, ApiToken, Membership, ServicePurpose, User
from accounts.oauth import actions as oauth
from accounts.scim import actions as scim
from accounts.scim.filters import BadFilter, parse_filter
from accounts.scim.models import ScimGroup, ScimUser
from accounts.scim.resources import MAX_MEMBERS, USER_ATTRIBUTES
from accounts.scim.views import MAX_BODY_BYTES, MAX_PAGE
from accounts.signin.models import SignIn, SignInMethod
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import NOW, Site
from tests.accounts.federation.conftest import make_provider

PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


class Directory:
    """A tenant's directory, as it speaks to us."""

    def __init__(self, site: Site) -> None:
        self._token = oauth.issue_service_token(site.tenant, purpose=ServicePurpose.SCIM, acting_user=None)[1].text

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        from django.test import Client
        from django.utils.http import urlencode

        data = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        url = f"/scim/v2/{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Authorization": f"Bearer {self._token}"}
        return Client().generic(method, url, data, content_type="application/scim+json", headers=headers)

    def make_user(self, name: str, **more: Any) -> str:
        answer = self.ask("POST", "Users", {"userName": name, **more})
        assert answer.status_code == 201, answer.content
        return str(answer.json()["id"])

    def make_group(self, name: str, *members: str) -> str:
        body = {"displayName": name, "members": [{"value": member} for member in members]}
        answer = self.ask("POST", "Groups", body)
        assert answer.status_code == 201, answer.content
        return str(answer.json()["id"])

    def patch(self, path: str, *operations: dict[str, Any]) -> Any:
        return self.ask("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)})

    def found(self, kind: str = "Users", **query: str) -> list[str]:
        answer = self.ask("GET", kind, **query)
        assert answer.status_code == 200, answer.content
        return sorted(row.get("userName") or row["displayName"] for row in answer.json()["Resources"])


@pytest.fixture
def directory(acme: Site) -> Directory:
    cache.clear()
    return Directory(acme)


def set_role(site: Site, group_id: str, role: str) -> None:
    with scope(tenant=site.tenant):
        group = ScimGroup.objects.get(pk=group_id)
        group.role = role
        scim.save_group(group, acting_user=site.people[Role.OWNER])


def role_of(site: Site, address: str) -> str | None:
    with scope(tenant=site.tenant):
        return Membership.objects.filter(user__email=address).values_list("role", flat=True).first()


def refused(answer: Any, status: int, scim_type: str = "") -> None:
    body = answer.json()
    assert (answer.status_code, body["status"], body.get("scimType", "")) == (status, str(status), scim_type), body


# ---------------------------------------------------------------- people, groups, roles


def test_a_person_has_the_highest_role_of_their_groups(acme: Site, directory: Directory) -> None:
    ada = directory.make_user("Ada@Corp.example", displayName="Ada")
    assert role_of(acme, "ada@corp.example") is None
    auditors, admins = directory.make_group("auditors", ada), directory.make_group("admins", ada)
    set_role(acme, auditors, "auditor")
    assert role_of(acme, "ada@corp.example") == "auditor"
    set_role(acme, admins, "admin")
    assert role_of(acme, "ada@corp.example") == "admin"
    directory.patch(f"Groups/{admins}", {"op": "remove", "path": f'members[value eq "{ada}"]'})
    assert role_of(acme, "ada@corp.example") == "auditor"
    assert directory.ask("DELETE", f"Groups/{auditors}").status_code == 204
    assert role_of(acme, "ada@corp.example") is None
    assert User.objects.get(email="ada@corp.example").name == "Ada"


def test_a_role_that_was_given_by_hand_isnt_the_groups(acme: Site, directory: Directory) -> None:
    owner = directory.make_user("owner@acme.example")
    viewers = directory.make_group("viewers", owner)
    set_role(acme, viewers, "viewer")
    assert role_of(acme, "owner@acme.example") == "owner"
    directory.ask("DELETE", f"Groups/{viewers}")
    assert role_of(acme, "owner@acme.example") == "owner"


@pytest.mark.parametrize("way", ["active false", "Entra's False", "without path", "PUT", "DELETE"])
def test_whoever_leaves_is_out_at_once(acme: Site, directory: Directory, way: str) -> None:
    admin = acme.people[Role.ADMIN]
    person = directory.make_user(admin.email)
    acme.agent.sponsor = admin
    actions.save_agent(acme.agent, acting_user=None)
    agent_token, made = actions.issue_agent_token(acme.agent, acting_user=admin)
    actions.issue_api_token(admin, tenant=acme.tenant, acting_user=admin)
    path = f"Users/{person}"
    match way:
        case "active false":
            answer = directory.patch(path, {"op": "replace", "path": "active", "value": False})
        case "Entra's False":
            answer = directory.patch(path, {"op": "Replace", "path": "active", "value": "False"})
        case "without path":
            answer = directory.patch(path, {"op": "replace", "value": {"active": False}})
        case "PUT":
            answer = directory.ask("PUT", path, {"userName": admin.email, "active": False})
        case _:
            answer = directory.ask("DELETE", path)
    assert answer.status_code in {200, 204}, answer.content
    assert role_of(acme, admin.email) is None
    with pytest.raises(BadCredential):
        identify_agent(made.text, now=NOW)
    with scope(tenant=acme.tenant):
        assert ApiToken.objects.get().revoked_at is not None
        assert LedgerEntry.objects.filter(kind="membership.deleted").count() == 1
        acme.agent.sponsor = None
        actions.save_agent(acme.agent, acting_user=None)
        AgentToken.objects.filter(pk=agent_token.pk).update(carried={"on_behalf_of": admin.email.upper()})
    with pytest.raises(BadCredential) as caught:
        identify_agent(made.text, now=NOW)
    assert caught.value.why == "the person behind the agent has left"
    assert directory.found() == ([] if way == "DELETE" else [admin.email])


def test_whoever_leaves_is_signed_out_of_that_tenant_and_not_let_in_again(
    acme: Site, globex: Site, directory: Directory
) -> None:
    provider, elsewhere = make_provider(acme), make_provider(globex)
    person = Person("s1", "ada@corp.example", "Ada", ("staff",), SignInMethod.OIDC)
    row = directory.make_user(person.email)
    user = federation.admit(provider, person, now=timezone.now())
    for one in (provider, elsewhere):
        with scope(tenant=one.tenant):
            SignIn.objects.create(
                tenant=one.tenant,
                user=user,
                provider=one,
                method="oidc",
                expires_at=timezone.now() + timedelta(hours=1),
            )
    directory.ask("DELETE", f"Users/{row}")
    with scope(tenant=acme.tenant):
        assert SignIn.objects.get().ended_at is not None
        assert LedgerEntry.objects.filter(kind="sign_in.ended").count() == 1
    with scope(tenant=globex.tenant):
        assert SignIn.objects.get().ended_at is None  # another company's directory has nothing to say there
    with pytest.raises(SignInRefused):
        federation.admit(provider, person, now=timezone.now())
    assert role_of(acme, person.email) is None
    directory.make_user(person.email)
    federation.admit(provider, person, now=timezone.now())
    assert role_of(acme, person.email) == "viewer"


def test_whoever_was_deleted_can_come_back(acme: Site, directory: Directory) -> None:
    first = directory.make_user("ada@corp.example")
    directory.ask("DELETE", f"Users/{first}")
    refused(directory.ask("GET", f"Users/{first}"), 404)
    assert directory.make_user("ada@corp.example") == first
    refused(directory.ask("POST", "Users", {"userName": "ADA@corp.example"}), 409, "uniqueness")
    directory.make_group("staff")
    refused(directory.ask("POST", "Groups", {"displayName": "STAFF"}), 409, "uniqueness")


def test_members_are_added_removed_and_replaced(directory: Directory) -> None:
    ids = [directory.make_user(f"{name}@corp.example") for name in ("a", "b", "c")]
    group = directory.make_group("staff", ids[0])
    path = f"Groups/{group}"

    def members(answer: Any) -> list[str]:
        return [entry["display"][0] for entry in answer.json()["members"]]

    more = {"op": "add", "path": "members", "value": [{"value": ids[1]}, {"value": ids[0]}]}
    assert members(directory.patch(path, more)) == ["a", "b"]
    assert members(directory.patch(path, {"op": "remove", "path": "members", "value": [{"value": ids[0]}]})) == ["b"]
    assert members(directory.ask("PUT", path, {"displayName": "people", "members": [{"value": ids[2]}]})) == ["c"]
    assert directory.found("Groups") == ["people"]
    assert members(directory.patch(path, {"op": "remove", "path": "members"})) == []


# ---------------------------------------------------------------- other tenants


def test_other_tenants_ids_are_not_there(acme: Site, globex: Site, directory: Directory) -> None:
    theirs = Directory(globex)
    person, group = theirs.make_user("bob@globex.example"), theirs.make_group("staff")
    for path in (f"Users/{person}", f"Groups/{group}"):
        answers = [directory.ask(method, path, {"userName": "x@y.example"}) for method in ("GET", "PUT", "DELETE")]
        answers.append(directory.patch(path, {"op": "replace", "path": "active", "value": False}))
        answers.append(directory.ask("GET", f"{path.split('/')[0]}/{uuid4()}"))
        for answer in answers:
            refused(answer, 404)
        assert len({answer.content for answer in answers}) == 1
    mine = directory.make_group("mine")
    refused(
        directory.patch(f"Groups/{mine}", {"op": "add", "path": "members", "value": [{"value": person}]}),
        400,
        "invalidValue",
    )
    assert directory.found() == []
    assert directory.found(filter='userName eq "bob@globex.example"') == []
    assert theirs.found() == ["bob@globex.example"]


def test_two_tenants_may_have_the_same_person(acme: Site, globex: Site, directory: Directory) -> None:
    theirs = Directory(globex)
    mine = directory.make_user("ada@corp.example")
    other = theirs.make_user("ada@corp.example", displayName="Somebody else")
    set_role(globex, theirs.make_group("admins", other), "admin")
    directory.ask("DELETE", f"Users/{mine}")
    assert role_of(globex, "ada@corp.example") == "admin"
    assert User.objects.get(email="ada@corp.example").name == ""


# ---------------------------------------------------------------- filters and pages


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ('userName eq "A@corp.example"', "a"),
        ('USERNAME EQ "a@corp.example"', "a"),
        ('userName ne "a@corp.example"', "bc"),
        ('userName sw "a" or userName sw "b"', "ab"),
        ('userName sw "a" or userName sw "b" and externalId eq "2"', "ab"),
        ('(userName sw "a" or userName sw "b") and externalId eq "2"', "b"),
        ('not (userName sw "a")', "bc"),
        ('externalId pr', "ab"),
        ("active eq false", "c"),
        ("active ne false", "ab"),
        ('emails.value ew "corp.example" and active eq true', "ab"),
        ('displayName co "%"', "b"),
        ('id eq "nonsense"', ""),
        ('userName eq "x\' OR 1=1 --"', ""),
        ('userName eq "x\\" or userName pr"', ""),
    ],
)  # fmt: skip
def test_filters_find_what_they_say(directory: Directory, wanted: str, found: str) -> None:
    directory.make_user("a@corp.example", externalId="1", displayName="Ada")
    directory.make_user("b@corp.example", externalId="2", displayName="50% Bob")
    directory.make_user("c@corp.example", active=False)
    assert directory.found(filter=wanted) == [f"{name}@corp.example" for name in found]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "userName", "userName eq", 'userName eq "a', "userName eq a", 'password eq "x"', 'user__name eq "x"',
        'userName eq "a" or unknown eq "b"', 'not userName eq "a"', '(userName pr', 'userName pr)', 'userName gt "a"',
        'emails[type eq "work"]', 'userName eq "a\\u0000"', "active eq 1", 'active co "t"', "userName eq true", "and",
        "(" * 50 + "userName pr" + ")" * 50, " or ".join(["userName pr"] * 60), 'userName eq "' + "x" * 3_000 + '"',
    ],
)  # fmt: skip
def test_filters_that_cant_be_used_are_refused(directory: Directory, text: str) -> None:
    with pytest.raises(BadFilter):
        parse_filter(text, USER_ATTRIBUTES)
    refused(directory.ask("GET", "Users", filter=text), 400, "invalidFilter")


def test_pages_are_bounded(directory: Directory) -> None:
    for name in "abc":
        directory.make_user(f"{name}@corp.example")
    page = directory.ask("GET", "Users", startIndex="2", count="1").json()
    assert (page["totalResults"], page["startIndex"], page["itemsPerPage"]) == (3, 2, 1)
    assert directory.ask("GET", "Users", count="0").json()["Resources"] == []
    assert directory.ask("GET", "Users", count="999999999", startIndex="-5").json()["startIndex"] == 1
    assert directory.ask("GET", "ServiceProviderConfig").json()["filter"]["maxResults"] == MAX_PAGE
    for nonsense in ("x", "1e9", "", "9" * 40, "١"):
        refused(directory.ask("GET", "Users", count=nonsense), 400, "invalidValue")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{", "[" * 100_000, {}, {"userName": "no address"}, {"userName": 7}, {"userName": "a@b.example\n"},
        {"userName": "a@b.example", "active": "perhaps"}, {"userName": "a@b.example", "externalId": "x" * 300},
        {"userName": "a@b.example", "displayName": "\x00"},
    ],
)  # fmt: skip
def test_what_is_no_user_is_refused(acme: Site, directory: Directory, body: Any) -> None:
    assert directory.ask("POST", "Users", body).status_code == 400
    with scope(tenant=acme.tenant):
        assert not ScimUser.objects.exists()


@pytest.mark.parametrize(
    "operations",
    [
        [], "x", ["x"], [{"op": "move", "path": "active"}], [{"op": "remove"}], [{"op": "replace", "value": "x"}],
        [{"op": "add", "path": 7}], [{"op": "replace", "path": 'emails[type eq "work"].value', "value": "x"}],
        [{"op": "replace", "path": "active", "value": "x"}], [{"op": "replace", "path": "userName", "value": "z@z.eu"}],
        [{"op": "replace", "path": "externalId", "value": "kept?"}, {"op": "remove"}],
    ],
)  # fmt: skip
def test_what_is_no_patch_changes_nothing(directory: Directory, operations: Any) -> None:
    person = directory.make_user("a@corp.example")
    before = directory.ask("GET", f"Users/{person}").json()
    assert directory.ask("PATCH", f"Users/{person}", {"Operations": operations}).status_code == 400
    assert directory.ask("GET", f"Users/{person}").json() == before


def test_too_much_at_once_is_refused(directory: Directory) -> None:
    refused(directory.ask("POST", "Users", "{" + " " * MAX_BODY_BYTES + "}"), 413)
    group = directory.make_group("staff")
    many = [{"value": str(uuid4())} for _ in range(MAX_MEMBERS + 1)]
    refused(directory.patch(f"Groups/{group}", {"op": "add", "path": "members", "value": many}), 413, "tooMany")


def test_only_a_service_token_for_scim_opens_it(acme: Site, directory: Directory) -> None:
    person = actions.issue_api_token(acme.people[Role.OWNER], tenant=acme.tenant, acting_user=None)[1].text
    other = oauth.issue_service_token(acme.tenant, purpose=ServicePurpose.INTROSPECTION, acting_user=None)[1].text
    for token in ("", "nonsense", person, other):
        directory._token = token
        answer = directory.ask("GET", "Users")
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_what_is_offered_is_described(directory: Directory) -> None:
    config = directory.ask("GET", "ServiceProviderConfig").json()
    assert (config["patch"]["supported"], config["filter"]["maxResults"]) == (True, MAX_PAGE)
    types = directory.ask("GET", "ResourceTypes").json()
    assert types["totalResults"] == 2
    for kind in types["Resources"]:
        assert directory.ask("GET", f"ResourceTypes/{kind['name']}").json() == kind
        assert directory.ask("GET", kind["endpoint"].removeprefix("/")).status_code == 200
        schema = directory.ask("GET", f"Schemas/{kind['schema']}").json()
        assert schema in directory.ask("GET", "Schemas").json()["Resources"]
        assert schema["meta"]["location"].endswith(f"/scim/v2/Schemas/{kind['schema']}")
    for listed in ("ResourceTypes", "Schemas"):
        refused(directory.ask("GET", listed, filter='id eq "User"'), 403)
        refused(directory.ask("GET", f"{listed}/nonsense"), 404)
        refused(directory.ask("POST", listed, {}), 405)


def test_resources_hold_what_their_schemas_say(directory: Directory) -> None:
    common = {"schemas", "id", "externalId", "meta"}  # RFC 7643, 3.1: of no schema
    user = directory.ask("GET", f"Users/{directory.make_user('ada@corp.example', displayName='Ada')}").json()
    group = directory.ask("GET", f"Groups/{directory.make_group('staff', user['id'])}").json()
    for resource in (user, group):
        schema = directory.ask("GET", f"Schemas/{resource['schemas'][0]}").json()
        told: dict[str, Any] = {attribute["name"]: attribute for attribute in schema["attributes"]}
        assert set(told) == set(resource) - common
        for name, attribute in told.items():
            values: list[Any] = resource[name] if attribute["multiValued"] else [resource[name]]
            for value in values:
                assert isinstance(value, {"string": str, "boolean": bool, "complex": dict}[attribute["type"]])
                if isinstance(value, dict):
                    assert set(value) == {part["name"] for part in attribute["subAttributes"]}


def test_a_method_that_isnt_offered_is_refused(directory: Directory) -> None:
    refused(directory.ask("DELETE", "Users"), 405)
    refused(directory.ask("POST", "ServiceProviderConfig", {}), 405)


def test_an_owner_gives_a_group_its_role_in_the_admin(acme: Site, directory: Directory) -> None:
    from django.test import Client

    group = directory.make_group("auditors", directory.make_user("ada@corp.example"))
    page = f"/admin/accounts/scimgroup/{group}/change/"
    browser = Client()
    for role, status in ((Role.VIEWER, 403), (Role.ADMIN, 403), (Role.OWNER, 302)):
        browser.force_login(acme.people[role])
        assert browser.post(page, {"role": "auditor"}).status_code == status
    assert role_of(acme, "ada@corp.example") == "auditor"
    for listed in ("scimuser", "scimgroup"):
        assert browser.get(f"/admin/accounts/{listed}/").status_code == 200


def test_the_ledger_names_the_directory_by_its_token(acme: Site) -> None:
    token, made = oauth.issue_service_token(acme.tenant, purpose=ServicePurpose.SCIM, acting_user=None, label="Okta")
    directory = Directory(acme)
    directory._token = made.text
    with scope(tenant=acme.tenant):
        before = LedgerEntry.objects.order_by("-seq")[0].seq
    sam = directory.make_user("sam@acme.example")
    group = directory.make_group("data-team", sam)
    with scope(tenant=acme.tenant):
        row = ScimGroup.objects.get(pk=group)
        row.role = Role.APPROVER
        scim.save_group(row, acting_user=None)  # by no directory: an owner's page
    assert directory.ask("DELETE", f"Users/{sam}").status_code == 204
    with scope(tenant=acme.tenant):
        entries = LedgerEntry.objects.filter(seq__gt=before).order_by("seq")
        actors = [(entry.kind, entry.actor) for entry in entries]
    named = f"SCIM token {token.token_id} (Okta)"
    assert actors == [
        ("scim_user.created", named),
        ("scim_group.created", named),
        ("scim_group.members_changed", named),
        ("scim_group.changed", "system"),
        ("membership.created", "system"),
        ("scim_user.changed", named),
        ("membership.deleted", named),
    ]
