"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    """The record of administrative changes."""

    name = "controlplane.ledger"
    label = "ledger"
    verbose_name = "Ledger"
