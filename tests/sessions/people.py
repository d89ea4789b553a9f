"""People in every role, and one of each row that has a page or an endpoint."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.models import Membership, Tenant, User
from controlplane.authority import Role
from policies.access import effective_policy
from policies.approvals.actions import save_flow
from policies.approvals.asking import Asked, ask
from policies.approvals.models import ApprovalFlow, ApprovalGrant, ApprovalRequest
from policies.engine import Access, Approval, Decision, Effect, Operation
from policies.models import Policy, PolicyVersion
from proxyworker.contract import OutcomeStatus, Parameter
from sessions.ingest import append_records
from sessions.models import AgentSession, ContentSegment, JournalBatch, SessionRefusal
from sessions.models import Operation as OperationRow
from targets.actions import add_column_label, issue_join_token
from targets.models import ColumnLabel, Credential
from tests.sessions.conftest import Site
from tests.sessions.records import JournalScript, intent, opened, outcome

MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
AUDITORS = frozenset(Role) - {Role.VIEWER}


def person(tenant: Tenant, role: Role) -> User:
    """Somebody with this role in the tenant."""
    user = actions.save_user(User(email=f"{role}@{tenant.slug}.example"), acting_user=None)
    actions.save_membership(Membership(tenant=tenant, user=user, role=role), acting_user=None)
    return user


def signed_in(user: User) -> Client:
    """Their browser."""
    client = Client()
    client.force_login(user)
    return client


def an_approval(site: Site, session: AgentSession) -> tuple[ApprovalFlow, ApprovalRequest]:
    """A request that waits for one of those whose role may approve; any of them may break the glass. In scope."""
    named = {"roles": ["owner", "admin", "approver"]}
    flow = ApprovalFlow(tenant=site.tenant, name="writes", terms={})
    flow.terms = {"stages": [{"approvers": named}], "break_glass": named}
    save_flow(flow, acting_user=None)
    standby = actions.save_user(User(email=f"standby@{site.tenant.slug}.example"), acting_user=None)
    actions.save_membership(Membership(tenant=site.tenant, user=standby, role=Role.APPROVER), acting_user=None)
    text = "DELETE FROM orders WHERE note = '<b>bold</b>'"
    asked = Asked(
        session_id=session.pk,
        session_expires_at=session.expires_at,
        op=1,
        worker=site.worker,
        agent=site.agent,
        target=site.target,
        principal=session.principal,
        kind="query",
        text=text,
        text_bytes=len(text),
        parameters=[{"value": "O'Hara", "binary": False, "truncated_bytes": 0}],
        operation_sha256=b"o" * 32,
        operation=Operation(accesses=(Access("delete", "public.orders", ("*",)),), hazards=("delete_without_where",)),
        decision=Decision(
            effect=Effect.REQUIRE_APPROVAL,
            policy_version=effective_policy(site.tenant.pk).version,
            rule="support/writes",
            reason="writing takes a yes",
            approval=Approval(flow="writes"),
        ),
    )
    answer = ask(asked, now=timezone.now())
    return flow, ApprovalRequest.objects.get(pk=answer.approval_id)


def a_grant(site: Site, request: ApprovalRequest) -> ApprovalGrant:
    """What a yes would cover for an hour. In scope."""
    grant: ApprovalGrant = ApprovalGrant.objects.create(
        tenant=site.tenant,
        request=request,
        scope="window",
        agent=site.agent,
        target=site.target,
        flow=request.flow,
        principal_sha256=request.principal_sha256,
        policy_version=request.policy_version,
        covers=b"",
        expires_at=timezone.now() + timedelta(hours=1),
    )
    return grant


def furnish(site: Site) -> dict[str, Any]:
    """One row for each page of the site's tenant, by model name."""
    session = site.session()
    journal = JournalScript()
    sid = str(session.pk)
    journal.write(opened(sid), intent(sid, 1, "SELECT '<b>bold</b>', $1", [Parameter("O'Hara"), Parameter(None)]))
    journal.write(outcome(sid, 1), intent(sid, 2, "SELECT * FROM nope"), outcome(sid, 2, OutcomeStatus.ERROR))
    journal.write(
        intent(sid, 3, "DELETE FROM orders"), outcome(sid, 3, OutcomeStatus.UNKNOWN), intent(sid, 4, "SELECT 4")
    )
    append_records(site.linked, journal.whole())
    with scope(tenant=site.tenant):
        token, _ = issue_join_token(
            tenant=site.tenant, worker_name="edge-2", lifetime=timedelta(hours=1), acting_user=None
        )
        label = ColumnLabel(tenant=site.tenant, target=site.target, table="customers", column="email", label="email")
        add_column_label(label, acting_user=None)
        now = timezone.now()
        refusal = SessionRefusal.objects.create(
            tenant=site.tenant,
            worker=site.worker,
            agent=site.agent,
            target_name="payroll",
            client_host="10.1.2.3",
            code="denied",
            reason="payroll is for people",
            hour=now,
            last_at=now,
        )
        segment = ContentSegment.objects.create(
            tenant=site.tenant, session=session, index=0, sha256=b"s" * 32, size_bytes=9, storage_name="x"
        )
        flow, request = an_approval(site, session)
        return {
            "approvalflow": flow,
            "approvalrequest": request,
            "approvalgrant": a_grant(site, request),
            "target": site.target,
            "credential": Credential.objects.get(),
            "proxyworker": site.worker,
            "columnlabel": label,
            "jointoken": token,
            "policy": Policy.objects.get(),
            "policyversion": PolicyVersion.objects.get(),
            "agentsession": session,
            "operation": OperationRow.objects.get(op=1),
            "sessionrefusal": refusal,
            "journalbatch": JournalBatch.objects.get(),
            "contentsegment": segment,
        }
