"""The ledger's page: read-only."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import display

from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.ledger.models import LedgerEntry

#: The verb of a kind → the colour of its label.
VERB_LABELS = {
    **dict.fromkeys(("created", "issued", "enrolled", "published", "set"), "success"),
    **dict.fromkeys(("deleted", "revoked", "ended", "end_requested"), "danger"),
    "changed": "info",
}


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnlyTenantAdmin):
    """Who changed what, and when."""

    list_display = ("seq", "at", "kind_label", "subject", "actor", "channel", "address", "tenant")
    list_display_links = ("seq", "at")
    list_filter = (("at", RangeDateTimeFilter), "kind", "channel", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("subject", "actor", "kind", "address")
    ordering = ("-at",)
    readonly_fields = ("before_text", "after_text", "digest_hex")
    fieldsets = (
        (None, {"fields": (("tenant", "seq"), ("at", "kind"), ("actor", "subject"), ("channel", "address"))}),
        ("Change", {"fields": ("before_text", "after_text")}),
        ("Proof", {"fields": ("digest_hex",)}),
    )

    @display(
        description="kind",
        ordering="kind",
        label=VERB_LABELS,
    )
    def kind_label(self, entry: LedgerEntry) -> tuple[str, str]:
        """The kind, coloured by its verb."""
        return entry.kind.rpartition(".")[2], entry.kind

    @display(description="before")
    def before_text(self, entry: LedgerEntry) -> SafeString | str:
        """The state before."""
        return _pretty(entry.before)

    @display(description="after")
    def after_text(self, entry: LedgerEntry) -> SafeString | str:
        """The state after."""
        return _pretty(entry.after)

    @display(description="digest")
    def digest_hex(self, entry: LedgerEntry) -> str:
        """SHA-256 of this entry and of all before it."""
        return bytes(entry.digest).hex()


def _pretty(state: Any) -> SafeString | str:
    if state is None:
        return "—"
    text = json.dumps(state, indent=2, ensure_ascii=False, sort_keys=True)
    return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)
