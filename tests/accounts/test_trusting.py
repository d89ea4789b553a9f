"""Trust rules over claims: all conditions, one agent, its groups and labels, who is behind it; and sponsors."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django_scopes import scope

from accounts import actions
from accounts.errors import BadCredential
from accounts.identify import identify_agent
from accounts.models import Agent, Membership, OidcTrust
from accounts.presets import PRESETS
from accounts.trusting import MAX_ACTORS
from controlplane.authority import Role
from tests.accounts.conftest import NOW, Site, make_trust
from tests.accounts.provider import Provider
from tests.accounts.test_oidc import claims, identify


def rule(agent: Agent, *conditions: str) -> actions.RuleSpec:
    return actions.RuleSpec(conditions=conditions, agent_id=agent.pk)


def test_all_conditions_of_a_rule_must_hold(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    rules = [rule(acme.agent, "repository ~ acme/*", "ref = refs/heads/main", "/env/name = prod")]
    actions.save_trust(trust, acting_user=None, rules=rules)
    sound: dict[str, Any] = {"repository": "acme/app", "ref": "refs/heads/main", "env": {"name": "prod"}}
    assert identify(provider.sign(claims(provider, **sound))).agent == acme.agent
    for name in sound:
        with pytest.raises(BadCredential):
            identify(provider.sign(claims(provider, **{**sound, name: "other"})))
        with pytest.raises(BadCredential):
            identify(provider.sign(claims(provider, **{**sound, name: None})))


def test_patterns_that_match_two_agents_let_nobody_in(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    other = actions.save_agent(Agent(tenant=acme.tenant, name="writer"), acting_user=None)
    rules = [rule(acme.agent, "sub ~ repo:acme/*"), rule(other, "sub ~ repo:*:main")]
    actions.save_trust(trust, acting_user=None, rules=rules)
    assert identify(provider.sign(claims(provider, sub="repo:acme/app:dev"))).agent == acme.agent
    assert identify(provider.sign(claims(provider, sub="repo:globex/app:main"))).agent == other
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider, sub="repo:acme/app:main")))


@pytest.mark.parametrize("conditions", [(), ("sub",), ("sub ~ *",), ("sub = a",) * 21])
def test_a_rule_that_is_none_is_refused(acme: Site, trust: OidcTrust, conditions: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        actions.save_trust(trust, acting_user=None, rules=[rule(acme.agent, *conditions)])
    assert "rules" in caught.value.message_dict


def test_the_same_conditions_in_another_order_are_the_same(acme: Site, trust: OidcTrust) -> None:
    other = actions.save_agent(Agent(tenant=acme.tenant, name="writer"), acting_user=None)
    rules = [rule(acme.agent, "a = b", "c = d"), rule(other, "c = d", "a = b")]
    with pytest.raises(ValidationError, match="two agents"):
        actions.save_trust(trust, acting_user=None, rules=rules)


def test_groups_and_labels_come_from_the_claims(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, groups_claim="/realm/roles", label_claims=["repository", "/realm/name", "missing"])
    told = claims(provider, repository="acme/app", realm={"name": "ci", "roles": ["ops", "analysts", "x" * 101, {}]})
    identified = identify(provider.sign(told))
    assert identified.groups == ("analysts", "ops")
    assert identified.labels == {"repository": "acme/app", "/realm/name": "ci"}


def test_an_unverified_address_names_no_person(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, person_claim="email")
    for verified, person in ((True, "ada@acme.example"), (False, ""), ("true", "")):
        token = provider.sign(claims(provider, email="ada@acme.example", email_verified=verified))
        assert identify(token).on_behalf_of == person


def test_an_address_is_one_however_it_is_written_and_another_name_is_as_it_is(acme: Site, provider: Provider) -> None:
    trust = make_trust(acme, provider, person_claim="email")
    token = provider.sign(claims(provider, email="Ada@ACME.example", email_verified=True))
    assert identify(token).on_behalf_of == "ada@acme.example"
    trust.person_claim = "employee"
    actions.save_trust(trust, acting_user=None)
    assert identify(provider.sign(claims(provider, employee="Ada-7"))).on_behalf_of == "Ada-7"


def test_the_chain_of_actors_is_kept_hop_by_hop(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    act = {"sub": "planner", "act": {"sub": "chat", "iss": "https://elsewhere.example"}}
    assert identify(provider.sign(claims(provider, act=act))).actors == ("actor:planner", "actor:chat")


@pytest.mark.parametrize(
    "act", ["planner", ["planner"], {}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"}, {"sub": "a", "act": "b"}, "deep"]
)
def test_a_chain_that_cant_be_told_is_refused(provider: Provider, trust: OidcTrust, act: Any) -> None:
    if act == "deep":
        act = {"sub": "first"}
        for _ in range(MAX_ACTORS):
            act = {"sub": "next", "act": act}
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider, act=act)))


def test_a_claim_that_is_there_twice_is_refused(provider: Provider, trust: OidcTrust) -> None:
    import base64

    from joserfc import jws

    payload = f'{{"iss": "{provider.url}", "aud": "narrowgate", "sub": "x", "sub": "reporter-prod", "exp": 1795435200}}'
    key = provider.keys["rsa"]
    token = jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, payload, key)
    assert base64.urlsafe_b64decode(token.split(".")[1] + "==").decode() == payload
    with pytest.raises(BadCredential) as caught:
        identify(token)
    assert caught.value.why == "no JWT that we accept"


# ---------------------------------------------------------------- sponsors


def sponsored(site: Site) -> str:
    """An issued token of the site's agent, which its administrator now answers for."""
    site.agent.sponsor = site.people[Role.ADMIN]
    actions.save_agent(site.agent, acting_user=None)
    return actions.issue_agent_token(site.agent, acting_user=None)[1].text


@pytest.mark.parametrize("leaving", ["inactive", "no role"])
def test_an_agent_whose_sponsor_has_left_is_suspended(acme: Site, globex: Site, leaving: str) -> None:
    token, sponsor = sponsored(acme), acme.people[Role.ADMIN]
    actions.save_membership(Membership(tenant=globex.tenant, user=sponsor, role=Role.ADMIN), acting_user=None)
    assert identify_agent(token, now=NOW).agent == acme.agent
    if leaving == "inactive":
        sponsor.is_active = False
        actions.save_user(sponsor, acting_user=None)
    else:
        with scope(tenant=acme.tenant):
            membership = Membership.objects.get(user=sponsor)
        actions.delete_membership(membership, acting_user=None)
    with pytest.raises(BadCredential) as caught:
        identify_agent(token, now=NOW)
    assert caught.value.why == "the agent's sponsor has left"
    with pytest.raises(ValidationError):
        actions.save_agent(Agent(tenant=acme.tenant, name="another", sponsor=sponsor), acting_user=None)
    acme.agent.sponsor = acme.people[Role.OWNER]
    actions.save_agent(acme.agent, acting_user=None)
    assert identify_agent(token, now=NOW).agent == acme.agent


def test_nobody_acts_for_a_person_whose_account_an_operator_has_deactivated(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, person_claim="email")
    person = acme.people[Role.VIEWER]
    token = provider.sign(claims(provider, email=person.email.upper()))
    assert identify(token).on_behalf_of == person.email
    person.is_active = False
    actions.save_user(person, acting_user=None)
    with pytest.raises(BadCredential) as caught:
        identify(token)
    assert caught.value.why == "the person behind the agent has left"


def test_a_suspended_agent_can_be_deactivated(acme: Site) -> None:
    sponsored(acme)
    acme.people[Role.ADMIN].is_active = False
    actions.save_user(acme.people[Role.ADMIN], acting_user=None)
    acme.agent.is_active = False
    assert not actions.save_agent(acme.agent, acting_user=None).is_active


# ---------------------------------------------------------------- trying it out


def test_a_dry_run_says_which_agent_and_why_not(acme: Site, globex: Site, provider: Provider, trust: OidcTrust) -> None:
    client = Client()
    client.force_login(acme.people[Role.ADMIN])
    told = provider.sign(claims(provider, sub="somebody"))

    def run(text: str) -> Any:
        return client.post("/api/v1/oidc-trusts/dry-run/", {"token_or_claims": text}, content_type="application/json")

    (verdict,) = run(told).json()
    assert verdict["agent"] is None
    assert verdict["problems"] == ["no rule for these claims"]
    assert verdict["rules"][0]["failed"] == ["sub = reporter-prod: the claim is somebody"]
    (verdict,) = run(provider.sign(claims(provider))).json()
    assert (verdict["agent"], verdict["problems"]) == ("reporter", [])
    (verdict,) = run('{"iss": "x", "aud": "y", "sub": "reporter-prod"}').json()
    assert (verdict["agent"], len(verdict["problems"])) == (None, 2)
    for nothing in ("x.y.z", "[]", "[" * 9_000, "7"):
        assert run(nothing).status_code == 400
    client.force_login(globex.people[Role.ADMIN])
    assert run(told).json() == []
    client.force_login(acme.people[Role.AUDITOR])
    assert run(told).status_code == 403


def test_the_admin_tries_claims_and_starts_from_presets(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    client = Client()
    client.force_login(acme.people[Role.ADMIN])
    page = f"/admin/accounts/oidctrust/{trust.pk}/try-claims/"
    assert client.get(page).status_code == 200
    tried = client.post(page, {"token_or_claims": provider.sign(claims(provider, sub="<b>x</b>"))})
    assert "sub = reporter-prod: the claim is &lt;b&gt;x" in tried.content.decode()
    assert "no-store" in tried.headers["Cache-Control"]
    for preset in PRESETS:
        went = client.post("/admin/accounts/oidctrust/use-preset/", {"preset": preset.slug})
        form = client.get(went.headers["Location"]).content.decode()
        assert preset.issuer.replace("'", "&#x27;") in form
        assert preset.conditions[0].replace("'", "&#x27;") in form


def test_a_preset_that_wasnt_completed_is_refused(acme: Site, trust: OidcTrust) -> None:
    trust.issuer = "https://{host}/realms/{realm}"
    with pytest.raises(ValidationError, match="braces"):
        actions.save_trust(trust, acting_user=None)
