"""The pages of policies, their drafts and versions, and of what belongs to them. Importing it registers all."""

from policies.admin import drafts, policies, versions
from policies.approvals import admin as approvals
from policies.budgets import admin as budgets
from policies.notifying import admin as notifying
from policies.simulation import admin as simulation

__all__ = ["approvals", "budgets", "drafts", "notifying", "policies", "simulation", "versions"]
