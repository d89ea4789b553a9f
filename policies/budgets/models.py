"""Budgets: of which rule, and for whom. What is used of them is in the counters. Changed by `budgets.actions` only."""

from __future__ import annotations

from typing import Final

from django.db import models

from accounts.models import Agent
from accounts.tenancy import TenantOwned
from policies.engine import LimitOf, LimitPer
from targets.models import Target

MAX_RULE_CHARACTERS: Final = 200


class Budget(TenantOwned):
    """What a rule's limit allows those who share it. Made when somebody first uses it."""

    rule = models.CharField(max_length=MAX_RULE_CHARACTERS)
    per = models.CharField(max_length=16, choices=[(per.value, per.value) for per in LimitPer])
    of = models.CharField(max_length=16, choices=[(of.value, of.value.replace("_", " ")) for of in LimitOf])
    agent = models.ForeignKey(Agent, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    target = models.ForeignKey(Target, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    limits = models.JSONField(help_text="How much in a period, by measure, as the rule last said.")
    last_used_at = models.DateTimeField()

    class Meta:
        ordering = ["-last_used_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "rule", "per", "of", "agent", "target"],
                name="budget_once",
                nulls_distinct=False,
            )
        ]
        indexes = [models.Index(fields=["tenant", "-last_used_at"], name="budget_recent")]

    def __str__(self) -> str:
        whom = " on ".join(str(one) for one in (self.agent, self.target) if one is not None) or "everybody"
        return f"{self.rule} per {self.per} for {whom}"
