"""Who may do what over REST: a row for each method of each endpoint of the router, for all roles and for strangers.

A status that ends a row is what a person with the power gets. Others of the tenant: 403 for what they may see and not
do, 404 for what they may not see. Other tenants and operators without a role: as if it weren't there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, NamedTuple

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.federation.actions import save_provider
from accounts.federation.models import IdentityProvider
from accounts.models import OidcTrust, ServicePurpose, User
from accounts.oauth.actions import issue_service_token, make_client
from controlplane.authority import ROLE_POWERS, Power, Role
from controlplane.ledger.models import LedgerEntry, PlatformEntry
from controlplane.urls import router
from policies.actions import propose_draft, save_draft
from policies.budgets.models import Budget
from policies.models import PolicyDraft
from policies.notifying.actions import announce, save_channel
from policies.notifying.models import ChatIdentity, Event, Notification, NotificationChannel
from policies.simulation.actions import start_simulation, start_suggestion
from sessions.killing.actions import kill
from tests.sessions.conftest import Site
from tests.sessions.people import furnish, person, signed_in

PERIOD: Final = {"since": "2026-11-01T00:00:00Z", "until": "2026-11-20T00:00:00Z"}
RULES: Final = [{"name": "all", "effect": "allow", "agents": ["*"], "targets": ["shop"]}]
TRUST: Final = {
    "name": "idp",
    "issuer": "https://idp.example",
    "audience": "narrowgate",
    "rules": [{"conditions": ["sub = x"], "agent": "reporter"}],
}
FLOW: Final = {"stages": [{"approvers": {"roles": ["approver"]}}]}
#: Nobody listens there.
PROVIDER: Final = {"slug": "idp", "name": "IdP", "kind": "oidc", "issuer": "https://127.0.0.1:9", "client_id": "x"}


class Row(NamedTuple):
    """One method of one route: the power to do it, the power to see the row, the status, and what is sent.

    Without a power it is for operators.
    """

    power: Power | None
    sees: Power | None
    status: int
    body: Any = None


def read(power: Power = Power.READ) -> Row:
    """Reading, with 200."""
    return Row(power, power, 200)


def write(status: int, body: Any = None, power: Power = Power.MANAGE) -> Row:
    """Writing what everybody in the tenant sees."""
    return Row(power, Power.READ, status, body)


def of_owners(status: int, body: Any = None) -> Row:
    """Writing what administrators see and owners alone change."""
    return Row(Power.OWN, Power.MANAGE, status, body)


MATRIX: Final[dict[str, Row]] = {
    "GET approval-flow-list": read(),
    "POST approval-flow-list": write(201, {"name": "reads", "terms": FLOW}),
    "GET approval-flow-detail": read(),
    "PATCH approval-flow-detail": write(200, {"is_active": False}),
    "GET approval-request-list": read(Power.AUDIT),
    "GET approval-request-detail": read(Power.AUDIT),
    "POST approval-request-approve": Row(Power.APPROVE, Power.AUDIT, 200, {"comment": "x"}),
    "POST approval-request-reject": Row(Power.APPROVE, Power.AUDIT, 200, {"comment": "x"}),
    "POST approval-request-break-glass": Row(Power.APPROVE, Power.AUDIT, 200, {"reason": "x"}),
    "POST approval-request-preview": Row(Power.APPROVE, Power.AUDIT, 202, {"exact": True}),
    "GET approval-grant-list": read(Power.AUDIT),
    "GET approval-grant-detail": read(Power.AUDIT),
    "POST approval-grant-revoke": Row(Power.APPROVE, Power.AUDIT, 200, {"reason": "x"}),
    "GET tenant-list": read(),
    "GET tenant-detail": read(),
    "GET agent-list": read(),
    "POST agent-list": write(201, {"name": "helper"}),
    "GET agent-detail": read(),
    "PATCH agent-detail": write(200, {"description": "x"}),
    "POST agent-issue-token": write(201, {"label": "x"}),
    "GET agent-token-list": read(),
    "GET agent-token-detail": read(),
    "POST agent-token-revoke": write(200),
    "GET oidc-trust-list": read(),
    "POST oidc-trust-list": write(201, {**TRUST, "audience": "other", "name": "other"}),
    "POST oidc-trust-dry-run": write(200, {"token_or_claims": '{"iss": "https://idp.example"}'}),
    "GET oidc-trust-detail": read(),
    "PATCH oidc-trust-detail": write(200, {"name": "renamed"}),
    "DELETE oidc-trust-detail": write(204),
    "GET identity-provider-list": read(Power.MANAGE),
    "POST identity-provider-list": of_owners(201, {**PROVIDER, "slug": "other", "client_secret": "x"}),
    "GET identity-provider-detail": read(Power.MANAGE),
    "PATCH identity-provider-detail": of_owners(200, {"name": "renamed"}),
    "DELETE identity-provider-detail": of_owners(204),
    "POST identity-provider-test": of_owners(200),
    "GET oauth-client-list": read(),
    "POST oauth-client-list": write(201, {"label": "x"}),
    "GET oauth-client-detail": read(),
    "POST oauth-client-deactivate": write(200),
    "GET service-token-list": read(Power.MANAGE),
    "POST service-token-list": of_owners(201, {"purpose": "scim"}),
    "GET service-token-detail": read(Power.MANAGE),
    "POST service-token-revoke": of_owners(200),
    "GET api-token-list": read(),
    "POST api-token-list": write(201, {"label": "x"}, Power.READ),
    "GET api-token-detail": Row(Power.OWN, Power.OWN, 200),  # one's own, and the row is the owner's
    "POST api-token-revoke": Row(Power.OWN, Power.OWN, 200),
    "GET ledger-entrie-list": read(Power.AUDIT),
    "GET ledger-entrie-detail": read(Power.AUDIT),
    "GET platform-entrie-list": Row(None, None, 200),
    "GET platform-entrie-detail": Row(None, None, 200),
    "GET target-list": read(),
    "POST target-list": write(201, {"name": "archive", "host": "db2.internal", "database": "archive"}),
    "GET target-detail": read(),
    "PATCH target-detail": write(200, {"is_active": False}),
    "DELETE target-detail": write(409),  # it has had sessions
    "GET credential-list": read(),
    "POST credential-list": write(409, {"username": "x"}),  # there is one already, and the secret is missing
    "GET credential-detail": read(),
    "PATCH credential-detail": write(200, {"username": "other"}),
    "DELETE credential-detail": write(204),
    "GET column-label-list": read(),
    "POST column-label-list": write(201, {"table": "customers", "column": "email", "label": "pii"}),
    "GET column-label-detail": read(),
    "DELETE column-label-detail": write(204),
    "GET worker-list": read(),
    "GET worker-detail": read(),
    "PATCH worker-detail": write(200, {"is_active": False}),
    "GET join-token-list": read(),
    "POST join-token-list": write(201, {"worker_name": "edge-3"}),
    "GET join-token-detail": read(),
    "POST join-token-revoke": write(200),
    "GET notification-channel-list": read(Power.MANAGE),
    "POST notification-channel-list": write(201, {"name": "mail", "kind": "email"}),
    "GET notification-channel-detail": read(Power.MANAGE),
    "PATCH notification-channel-detail": write(200, {"is_active": False}),
    "POST notification-channel-new-secret": write(201),
    "GET notification-list": read(Power.AUDIT),
    "GET notification-detail": read(Power.AUDIT),
    "GET chat-identitie-list": read(Power.MANAGE),
    "GET chat-identitie-detail": Row(Power.MANAGE, Power.MANAGE, 200),  # one's own, or of a tenant that one manages
    "DELETE chat-identitie-detail": Row(Power.MANAGE, Power.MANAGE, 204),
    "POST chat-identitie-code": write(201, {"tenant": "acme"}, Power.READ),
    "GET policie-list": read(),
    "POST policie-list": write(201, {"name": "night"}),
    "GET policie-detail": read(),
    "PATCH policie-detail": write(200, {"is_active": False}),
    "POST policie-publish": write(201, {"rules": RULES, "message": "more"}),
    "POST policie-check": write(200, {"rules": RULES}),
    "GET policy-draft-list": read(),
    "POST policy-draft-list": write(201, {"rules": RULES}),
    "GET policy-draft-detail": read(),
    "PATCH policy-draft-detail": write(200, {"yaml": "rules: []"}),
    "POST policy-draft-propose": write(409),  # it is proposed
    "POST policy-draft-review": write(200, {"is_approved": True}, Power.APPROVE),
    "POST policy-draft-publish": write(201),
    "POST policy-draft-update-base": write(200),
    "POST policy-draft-discard": write(200),
    "GET policy-version-list": read(),
    "GET policy-version-detail": read(),
    "POST policy-version-restore": write(409),  # it is the current one
    "GET policy-simulation-list": read(Power.AUDIT),
    "POST policy-simulation-list": write(201, {"rules": RULES, **PERIOD}),
    "GET policy-simulation-detail": read(Power.AUDIT),
    "GET policy-suggestion-list": read(Power.AUDIT),
    "POST policy-suggestion-list": write(201, PERIOD),
    "GET policy-suggestion-detail": read(Power.AUDIT),
    "GET session-list": read(Power.AUDIT),
    "GET session-detail": read(Power.AUDIT),
    "POST session-end": Row(Power.MANAGE, Power.AUDIT, 202, {"reason": "enough"}),
    "GET operation-list": read(Power.AUDIT),
    "GET operation-detail": read(Power.AUDIT),
    "GET session-refusal-list": read(Power.AUDIT),
    "GET session-refusal-detail": read(Power.AUDIT),
    "GET content-segment-list": read(Power.AUDIT),
    "GET content-segment-detail": read(Power.AUDIT),
    "GET journal-batche-list": read(Power.AUDIT),
    "GET journal-batche-detail": read(Power.AUDIT),
    "GET budget-list": read(Power.AUDIT),
    "GET budget-detail": read(Power.AUDIT),
    "POST budget-reset": Row(Power.MANAGE, Power.AUDIT, 200),
    "GET kill-order-list": read(Power.AUDIT),
    "POST kill-order-list": Row(Power.MANAGE, Power.AUDIT, 201, {"scope": "tenant", "reason": "x"}),
    "GET kill-order-detail": read(Power.AUDIT),
    "POST kill-order-lift": Row(Power.MANAGE, Power.AUDIT, 200, {"reason": "x"}),
}


def routes() -> Iterator[str]:
    """Each method of each route that the router serves, as the matrix names it."""
    for _, viewset, basename in router.registry:
        for route in router.get_routes(viewset):
            mapping = router.get_method_map(viewset, route.mapping)
            for method in mapping:
                if method in viewset.http_method_names:  # type: ignore[attr-defined]
                    yield f"{method.upper()} {route.name.format(basename=basename)}"


def test_the_matrix_has_a_row_for_each_endpoint_and_no_other() -> None:
    assert sorted(MATRIX) == sorted(set(routes()))


@pytest.fixture
def rows(acme: Site) -> dict[str, Any]:
    """One of acme's rows for each endpoint, by its basename."""
    made = furnish(acme)
    token, _ = actions.issue_agent_token(acme.agent, acting_user=None)
    rule = actions.RuleSpec(conditions=("sub = x",), agent_id=acme.agent.pk)
    trust = OidcTrust(tenant=acme.tenant, name="idp", issuer="https://idp.example", audience="a", algorithms=["RS256"])
    actions.save_trust(trust, acting_user=None, rules=[rule])
    provider = IdentityProvider(tenant=acme.tenant, **PROVIDER)
    save_provider(provider, acting_user=None, secret="provider-secret", mappings=[])
    with scope(tenant=acme.tenant):
        draft = PolicyDraft(policy=made["policy"])
        save_draft(draft, scope={}, rules=RULES, message="", acting_user=None)
        propose_draft(draft, acting_user=None)
        period: dict[str, Any] = {
            "since": timezone.now() - timedelta(days=1),
            "until": timezone.now(),
            "acting_user": None,
        }
        simulation = start_simulation(made["policy"], scope={}, rules=RULES, **period)
        suggestion = start_suggestion(acme.agent, **period)
        entry = LedgerEntry.objects.order_by("seq")[0]
        limits = {"operations": 5, "rows": 0, "bytes": 0}
        budget = Budget.objects.create(
            tenant=acme.tenant, rule="support/few", per="day", of="rule", limits=limits, last_used_at=timezone.now()
        )
        channel = NotificationChannel(tenant=acme.tenant, name="hook", kind="webhook", address="https://hook.example/")
        save_channel(channel, acting_user=None)
        announce(
            tenant=acme.tenant, event=Event.KILLED, key="1", title="x", url="https://gate.example/", facts=[("a", "b")]
        )
        linked = actions.save_user(User(email="linked@acme.example"), acting_user=None)
        chat = ChatIdentity.objects.create(tenant=acme.tenant, channel=channel, external_id="U1", user=linked)
        notification = Notification.objects.get(channel=channel)
    return {
        "approval-flow": made["approvalflow"],
        "approval-request": made["approvalrequest"],
        "approval-grant": made["approvalgrant"],
        "notification-channel": channel,
        "notification": notification,
        "chat-identitie": chat,
        "tenant": acme.tenant,
        "agent": acme.agent,
        "agent-token": token,
        "oidc-trust": trust,
        "identity-provider": provider,
        "oauth-client": make_client(acme.agent, acting_user=None)[0],
        "service-token": issue_service_token(acme.tenant, purpose=ServicePurpose.SCIM, acting_user=None)[0],
        "ledger-entrie": entry,
        "platform-entrie": PlatformEntry.objects.order_by("seq")[0],
        "column-label": made["columnlabel"],
        "worker": made["proxyworker"],
        "join-token": made["jointoken"],
        "policie": made["policy"],
        "policy-draft": draft,
        "policy-simulation": simulation,
        "policy-suggestion": suggestion,
        "policy-version": made["policyversion"],
        "session": made["agentsession"],
        "session-refusal": made["sessionrefusal"],
        "content-segment": made["contentsegment"],
        "journal-batche": made["journalbatch"],
        "budget": budget,
        "kill-order": kill(made["target"], reason="x", acting_user=None),
        **{name: made[name] for name in ("target", "credential", "operation")},
    }


def ask(client: Client, endpoint: str, rows: dict[str, Any]) -> Any:
    """The answer to the row's request, about acme's row where it is about one."""
    method, _, name = endpoint.partition(" ")
    basenames = (basename for _, _, basename in router.registry if name.startswith(f"{basename}-"))
    basename = max(basenames, key=len)
    body = MATRIX[endpoint].body
    is_collection = name.endswith(("-list", "-dry-run", "-code"))
    if method == "POST" and name.endswith("-list"):
        body = {"tenant": "acme", **body}
        if basename == "oauth-client":
            body["agent"] = str(rows["agent"].pk)
        if basename in {"credential", "column-label"}:
            body["target"] = str(rows["target"].pk)
        if basename == "policy-suggestion":
            body["agent"] = str(rows["agent"].pk)
        if basename in {"policy-draft", "policy-simulation"}:
            body["policy"] = str(rows["policie"].pk)
    if name == "policy-draft-review":
        body = {**body, "digest": rows["policy-draft"].digest}
    where = reverse(f"v1:{name}") if is_collection else reverse(f"v1:{name}", args=[rows[basename].pk])
    return getattr(client, method.lower())(where, body, content_type="application/json")


def expected(endpoint: str, role: Role) -> int:
    """What somebody in that role of the tenant gets."""
    row, powers = MATRIX[endpoint], ROLE_POWERS[role]
    if row.power in powers:
        return row.status
    if endpoint.endswith("-list") and endpoint.startswith("GET"):
        return 200  # of an empty list
    if "chat-identitie-" in endpoint:
        return 404  # another person's
    return 403 if row.sees in powers or not endpoint.startswith("GET") else 404


def with_own_token(user: User, site: Site, rows: dict[str, Any]) -> None:
    """Give the person a token of their own for the endpoints about those."""
    rows["api-token"], _ = actions.issue_api_token(user, tenant=site.tenant, acting_user=None)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("endpoint", MATRIX)
def test_each_role_may_do_what_the_matrix_says(acme: Site, rows: dict[str, Any], endpoint: str, role: Role) -> None:
    user = person(acme.tenant, role)
    owner = user if role is Role.OWNER else person(acme.tenant, Role.OWNER)
    with_own_token(owner, acme, rows)
    answer = ask(signed_in(user), endpoint, rows)
    if "api-token-" in endpoint and role is not Role.OWNER and not endpoint.endswith("-list"):
        assert answer.status_code == 404  # another person's
        return
    assert answer.status_code == expected(endpoint, role), answer.content
    if endpoint.endswith("-list") and endpoint.startswith("GET") and "api-token-" not in endpoint:
        assert (answer.json()["count"] > 0) is (MATRIX[endpoint].power in ROLE_POWERS[role])


@pytest.mark.parametrize("endpoint", MATRIX)
def test_for_strangers_it_isnt_there(acme: Site, globex: Site, rows: dict[str, Any], endpoint: str) -> None:
    """An owner of another tenant, an operator without a role, a person without any, and nobody."""
    with_own_token(person(acme.tenant, Role.OWNER), acme, rows)
    outsider = person(globex.tenant, Role.OWNER)
    operator = actions.save_user(User(email="root@gate.example", is_superuser=True), acting_user=None)
    nobody = actions.save_user(User(email="mallory@nowhere.example"), acting_user=None)
    method, _, name = endpoint.partition(" ")
    for user in (outsider, operator, nobody):
        answer = ask(signed_in(user), endpoint, rows)
        is_operators = user is operator and name.startswith(("tenant-", "platform-entrie-"))
        if method == "GET" and name.endswith("-list"):
            assert answer.status_code == 200
            told = answer.content.decode()
            assert is_operators or (str(acme.tenant.pk) not in told and '"acme"' not in told)
        elif is_operators:
            assert answer.status_code == 200
        elif name.endswith("-dry-run") and user is outsider:
            assert (answer.status_code, answer.json()) == (200, [])
        elif name.endswith(("-list", "-code")) and user is outsider:
            assert (answer.status_code, answer.json()["errors"][0]["field"] in {"tenant", "agent", "policy"}) == (
                400,
                True,
            )
        elif method == "GET" or user is outsider:
            assert answer.status_code == 404
        else:
            assert answer.status_code in {403, 404, 400}
        assert answer.status_code < 500
    assert ask(Client(), endpoint, rows).status_code == 401


def test_nothing_of_what_strangers_ask_is_done(acme: Site, globex: Site, rows: dict[str, Any]) -> None:
    with_own_token(person(acme.tenant, Role.OWNER), acme, rows)
    outsider = person(globex.tenant, Role.OWNER)
    mallory = actions.save_user(User(email="mallory@nowhere.example"), acting_user=None)

    def entries() -> list[int]:
        with scope(tenant=acme.tenant):
            return list(LedgerEntry.objects.order_by("seq").values_list("seq", flat=True))

    before = entries()
    for client in (Client(), signed_in(mallory), signed_in(outsider)):
        for endpoint in MATRIX:
            if not endpoint.startswith("GET"):
                ask(client, endpoint, rows)
    assert entries() == before
