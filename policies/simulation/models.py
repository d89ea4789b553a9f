"""Simulations and suggestions, and how far they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from accounts.models import Agent
from accounts.tenancy import TenantOwned
from policies.documents import PolicyDocument


class RunState(models.TextChoices):
    """Where a run is."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"


class Run(TenantOwned):
    """Base of both: a look at the operations of a period, in the background. `percent` is of them."""

    since = models.DateTimeField()
    until = models.DateTimeField()
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    state = models.CharField(max_length=8, choices=RunState.choices, default=RunState.WAITING)
    percent = models.PositiveSmallIntegerField(default=0)
    finished_at = models.DateTimeField(null=True, blank=True)
    problem = models.CharField(max_length=500, blank=True)

    class Meta:
        abstract = True

    @property
    def is_finished(self) -> bool:
        """True when nothing more will come."""
        return self.state in (RunState.DONE, RunState.FAILED)


class Simulation(Run):
    """`result` is `comparing.Comparison` as JSON. `draft` None: it was of another document."""

    policy = models.ForeignKey("policies.Policy", on_delete=models.PROTECT, related_name="simulations")
    draft = models.ForeignKey(
        "policies.PolicyDraft", null=True, blank=True, on_delete=models.PROTECT, related_name="simulations"
    )
    scope = models.JSONField(default=dict, blank=True)
    rules = models.JSONField(default=list, blank=True)
    result = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["tenant", "-created_at"], name="simulation_recent")]

    def __str__(self) -> str:
        return f"{self.policy} over {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"

    @property
    def document(self) -> PolicyDocument:
        """What was replayed."""
        return PolicyDocument(scope=self.scope, rules=self.rules)


class Suggestion(Run):
    """`rules` are the suggested ones. `observed`: how many operations they are made of, `left_out` those that aren't.

    `by_column`: whether the rules name columns too.
    """

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="+")
    by_column = models.BooleanField("name columns too", default=False)
    rules = models.JSONField(default=list, blank=True)
    observed = models.PositiveIntegerField("operations", default=0)
    left_out = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["tenant", "-created_at"], name="suggestion_recent")]

    def __str__(self) -> str:
        return f"for {self.agent}, {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"
