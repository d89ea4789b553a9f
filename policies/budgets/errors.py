"""Errors of budgets.

CountersUnavailable    Redis doesn't answer, so nothing can be leased
"""

from __future__ import annotations


class CountersUnavailable(Exception):
    """Redis doesn't answer as it should."""
