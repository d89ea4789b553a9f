"""The ledgers' pages: read-only."""

from __future__ import annotations

import json
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import display

from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import authority_of
from controlplane.ledger.models import Entry, LedgerEntry, PlatformEntry

#: The verb of a kind → the colour of its label.
VERB_LABELS = {
    **dict.fromkeys(("created", "issued", "enrolled", "published", "set"), "success"),
    **dict.fromkeys(("deleted", "revoked", "ended", "end_requested", "ordered"), "danger"),
    "changed": "info",
}


class EntryAdmin(ReadOnlyTenantAdmin):
    """Who changed what, from where, and when."""

    list_display_links = ("seq", "at")
    list_filter_submit = True
    search_fields = ("subject", "actor", "kind", "address")
    ordering = ("-at",)
    readonly_fields = ("before_text", "after_text", "digest_hex")

    @display(
        description="kind",
        ordering="kind",
        label=VERB_LABELS,
    )
    def kind_label(self, entry: Entry) -> tuple[str, str]:
        """The kind, coloured by its verb. Of a verb without a colour Unfold shows the first of the two."""
        verb = entry.kind.rpartition(".")[2]
        return (verb if verb in VERB_LABELS else entry.kind), entry.kind

    @display(description="before")
    def before_text(self, entry: Entry) -> SafeString | str:
        """The state before."""
        return _pretty(entry.before)

    @display(description="after")
    def after_text(self, entry: Entry) -> SafeString | str:
        """The state after."""
        return _pretty(entry.after)

    @display(description="digest")
    def digest_hex(self, entry: Entry) -> str:
        """SHA-256 of this entry and of all before it."""
        return bytes(entry.digest).hex()


_DETAILS: Final = (
    ("Change", {"fields": ("before_text", "after_text")}),
    ("Proof", {"fields": ("digest_hex",)}),
)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(EntryAdmin):
    """Of the tenants in which one may audit."""

    list_display = ("seq", "at", "kind_label", "subject", "actor", "channel", "address", "tenant")
    list_filter = (("at", RangeDateTimeFilter), "kind", "channel", ("tenant", AutocompleteSelectFilter))
    list_select_related = ("tenant",)
    fieldsets = (
        (None, {"fields": (("tenant", "seq"), ("at", "kind"), ("actor", "subject"), ("channel", "address"))}),
        *_DETAILS,
    )


@admin.register(PlatformEntry)
class PlatformEntryAdmin(EntryAdmin):
    """For operators: tenants, operators, and people without a tenant."""

    list_display = ("seq", "at", "kind_label", "subject", "actor", "channel", "address")
    list_filter = (("at", RangeDateTimeFilter), "kind", "channel")
    fieldsets = ((None, {"fields": ("seq", ("at", "kind"), ("actor", "subject"), ("channel", "address"))}), *_DETAILS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[PlatformEntry]:
        """All of them for an operator."""
        entries: QuerySet[PlatformEntry] = PlatformEntry.objects.all()
        return entries if authority_of(request).is_operator else entries.none()

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For operators only."""
        return authority_of(request).is_operator

    def has_view_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002  # its signature
        """For operators only."""
        return authority_of(request).is_operator

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> tuple[str, ...]:  # noqa: ARG002
        """There is no tenant to keep."""
        return self.readonly_fields


def _pretty(state: Any) -> SafeString | str:
    if state is None:
        return "—"
    text = json.dumps(state, indent=2, ensure_ascii=False, sort_keys=True)
    return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)
