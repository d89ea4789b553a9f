"""Flows, requests, votes and grants. `policies.models` imports it for Django.

The state of a request:

    pending ──► granted ──► void        granted and not used: the policy has changed, or nobody waits any more
       ├──► rejected
       ├──► expired                     in time, or because nobody is left who could approve
       ├──► withdrawn                   the agent cancelled or has gone
       └──► void                        the policy has changed

Rows are changed by `actions`, `asking` and `settling` only. A vote and a use are never changed: a trigger sees to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from accounts.tenancy import TenantOwned
from controlplane.errors import Refusal
from policies.approvals.terms import GrantScope, Terms, parse_terms
from policies.engine import ApprovalMode

#: A flow is named in rules.
FLOW_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
DIGEST_BYTES: Final = 32

flow_name_validator = RegexValidator(
    FLOW_NAME_PATTERN, "Use 1 to 63 small letters, digits and hyphens, with a letter or digit at both ends."
)


class ApprovalState(models.TextChoices):
    """How a request stands. The values are `proxyworker.contract.ApprovalState`'s, and a test holds that."""

    PENDING = "pending", "pending"
    GRANTED = "granted", "granted"
    REJECTED = "rejected", "rejected"
    EXPIRED = "expired", "expired"
    WITHDRAWN = "withdrawn", "withdrawn"
    VOID = "void", "void"


#: What a request may become.
TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    ApprovalState.PENDING: frozenset(ApprovalState.values) - {ApprovalState.PENDING},
    ApprovalState.GRANTED: frozenset({ApprovalState.VOID}),
    ApprovalState.REJECTED: frozenset(),
    ApprovalState.EXPIRED: frozenset(),
    ApprovalState.WITHDRAWN: frozenset(),
    ApprovalState.VOID: frozenset(),
}


class Mode(models.TextChoices):
    """What becomes of the operation meanwhile."""

    HOLD = ApprovalMode.HOLD.value, "held"
    DEFER = ApprovalMode.DEFER.value, "deferred"


class Verdict(models.TextChoices):
    """What a person said."""

    APPROVE = "approve", "approved"
    REJECT = "reject", "rejected"
    BREAK_GLASS = "break_glass", "broke the glass"


class Scope(models.TextChoices):
    """What a yes covers."""

    ONCE = GrantScope.ONCE.value, "this operation, once"
    TEMPLATE = GrantScope.TEMPLATE.value, "this statement with other values, some times"
    WINDOW = GrantScope.WINDOW.value, "everything on the target that asks the same, for a time"


class ApprovalFlow(TenantOwned):
    """Who has to say yes, under a name that rules use. `terms` is `terms.Terms` as a document."""

    name = models.CharField(max_length=63, validators=[flow_name_validator])
    description = models.CharField(max_length=500, blank=True)
    terms = models.JSONField()
    is_active = models.BooleanField("active", default=True, help_text="Off: what needs it is refused.")

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("tenant", "name"), name="approval_flow_once_per_tenant"),)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises `ValidationError` for terms that can't be used."""
        super().clean()
        if self.terms is None:  # a form that couldn't read them has said so
            return
        try:
            parse_terms(self.terms)
        except Refusal as refusal:
            raise ValidationError({"terms": str(refusal)}) from refusal


class ApprovalRequest(TenantOwned):
    """One operation that needs a yes. `session_id` and `op` name the operation; what approvers see is kept here.

    `facts` is the engine's `Operation`, `terms` the flow's as they were (of several flows, merged), `stage` counts from
    0. `binding` is `binding.binding_of`. `used_at`: when the gate was told that a held operation may pass.
    """

    session_id = models.UUIDField()
    op = models.PositiveIntegerField()
    worker = models.ForeignKey("targets.ProxyWorker", on_delete=models.PROTECT, related_name="+")
    agent = models.ForeignKey("accounts.Agent", on_delete=models.PROTECT, related_name="+")
    target = models.ForeignKey("targets.Target", on_delete=models.PROTECT, related_name="+")
    principal = models.JSONField(help_text="Who asks and on whose behalf, as the session's grant said it.")
    kind = models.CharField(max_length=32)
    verb = models.CharField("what is done", max_length=200, blank=True)
    text = models.TextField("statement")
    text_bytes = models.PositiveBigIntegerField()
    parameters = models.JSONField()
    facts = models.JSONField()
    rule = models.CharField(max_length=200)
    rule_author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", help_text="Who published it."
    )
    rule_reason = models.TextField(blank=True)
    flow = models.CharField(max_length=700, help_text="By name; several are joined by +.")
    terms = models.JSONField()
    mode = models.CharField(max_length=8, choices=Mode.choices)
    policy_version = models.CharField(max_length=200)
    operation_sha256 = models.BinaryField(max_length=DIGEST_BYTES)
    principal_sha256 = models.BinaryField(max_length=DIGEST_BYTES)
    template_sha256 = models.BinaryField(max_length=DIGEST_BYTES, null=True)
    binding = models.BinaryField(max_length=DIGEST_BYTES)
    state = models.CharField(max_length=16, choices=ApprovalState.choices, default=ApprovalState.PENDING)
    stage = models.PositiveSmallIntegerField(default=0)
    expires_at = models.DateTimeField()
    escalates_at = models.DateTimeField(null=True, help_text="When more people are asked; empty: never, or they were.")
    escalated_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    decision_reason = models.CharField(max_length=500, blank=True, help_text="The agent is told.")
    is_break_glass = models.BooleanField("glass broken", default=False)
    used_at = models.DateTimeField(null=True)
    preview_asked_at = models.DateTimeField(null=True)
    preview_is_exact = models.BooleanField("count asked for", default=False)
    preview_at = models.DateTimeField(null=True)
    preview_was_exact = models.BooleanField("counted", default=False)
    preview_rows = models.BigIntegerField(null=True)
    preview_plan = models.TextField(blank=True)
    preview_problem = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "session_id", "op"), name="approval_request_once"),
            # Agents try again: that doesn't fill the inbox.
            models.UniqueConstraint(
                fields=("tenant", "binding", "flow"),
                name="approval_deferred_once",
                condition=Q(state=ApprovalState.PENDING, mode=Mode.DEFER),
            ),
        )
        indexes = (
            models.Index(fields=("tenant", "-created_at"), name="approval_request_recent"),
            models.Index(fields=("agent", "-created_at"), name="approval_request_by_agent"),
            # What links and tasks look at: few, whatever the history's length.
            models.Index(fields=("worker",), name="approval_pending", condition=Q(state=ApprovalState.PENDING)),
            models.Index(
                fields=("tenant",),
                name="approval_unused",
                condition=Q(state=ApprovalState.GRANTED, mode=Mode.HOLD, used_at=None),
            ),
        )

    def __str__(self) -> str:
        return f"{self.verb or self.kind} by {self.principal.get('name', self.agent_id)} on {self.target}"

    @property
    def parsed_terms(self) -> Terms:
        """What the flow said when this was asked."""
        return parse_terms(self.terms)

    @property
    def hazards(self) -> list[str]:
        """Of the operation."""
        return list(self.facts.get("hazards", ()))

    @property
    def accesses(self) -> list[list[object]]:
        """Kind, object and columns of each."""
        return list(self.facts.get("accesses", ()))

    @property
    def is_pending(self) -> bool:
        """Somebody may still decide, when it hasn't expired."""
        return self.state == ApprovalState.PENDING


class ApprovalVote(TenantOwned):
    """What a person said of a request, once. `scope`, `uses` and `window_seconds` are what an approval grants."""

    request = models.ForeignKey(ApprovalRequest, on_delete=models.PROTECT, related_name="votes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    verdict = models.CharField(max_length=16, choices=Verdict.choices)
    stage = models.PositiveSmallIntegerField()
    comment = models.CharField(max_length=500, blank=True)
    via = models.CharField(max_length=32, blank=True, help_text="Where: the inbox, REST, Slack, …")
    scope = models.CharField(max_length=16, choices=Scope.choices, default=Scope.ONCE)
    uses = models.PositiveIntegerField(default=1)
    window_seconds = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("request", "user"), name="approval_vote_once", condition=~Q(verdict=Verdict.BREAK_GLASS)
            ),
            models.UniqueConstraint(
                fields=("request",), name="approval_glass_broken_once", condition=Q(verdict=Verdict.BREAK_GLASS)
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} {self.get_verdict_display()}"


class ApprovalGrant(TenantOwned):
    """What a granted request lets pass later. Bound to principal, target, flow and policy version; see `Scope`.

    `covers` is the binding of the operation, the digest of the template, or nothing for a window. `uses_left` None:
    as many as there are until `expires_at`.
    """

    request = models.OneToOneField(ApprovalRequest, on_delete=models.PROTECT, related_name="grant")
    scope = models.CharField(max_length=16, choices=Scope.choices)
    agent = models.ForeignKey("accounts.Agent", on_delete=models.PROTECT, related_name="+")
    target = models.ForeignKey("targets.Target", on_delete=models.PROTECT, related_name="+")
    flow = models.CharField(max_length=700)
    principal_sha256 = models.BinaryField(max_length=DIGEST_BYTES)
    policy_version = models.CharField(max_length=200)
    covers = models.BinaryField(max_length=DIGEST_BYTES)
    uses = models.PositiveIntegerField(null=True, help_text="How many it began with.")
    uses_left = models.PositiveIntegerField(null=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=200, blank=True, help_text="Why it ended before its time.")

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.CheckConstraint(
                name="approval_grant_is_bounded", condition=Q(scope=Scope.WINDOW) | Q(uses_left__isnull=False)
            ),
        )
        indexes = (
            models.Index(
                fields=("agent", "target", "expires_at"), name="approval_grant_open", condition=Q(ended_at=None)
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_scope_display()}: {self.agent} on {self.target}"

    def is_usable(self, now: datetime) -> bool:
        """As far as the row says; the policy must not have changed either."""
        return self.ended_at is None and now < self.expires_at and self.uses_left != 0


class ApprovalUse(TenantOwned):
    """An operation that passed by a grant."""

    grant = models.ForeignKey(ApprovalGrant, on_delete=models.PROTECT, related_name="used_by")
    session_id = models.UUIDField()
    op = models.PositiveIntegerField()
    operation_sha256 = models.BinaryField(max_length=DIGEST_BYTES)

    class Meta:
        ordering = ("created_at",)
        constraints = (models.UniqueConstraint(fields=("tenant", "session_id", "op"), name="approval_use_once"),)

    def __str__(self) -> str:
        return f"{self.session_id}/{self.op}"
