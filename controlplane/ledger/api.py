"""REST of the ledger: read-only."""

from __future__ import annotations

from typing import ClassVar, Final

from rest_framework import serializers

from controlplane.api import ReadOnlyTenantViewSet
from controlplane.ledger.models import LedgerEntry


class LedgerEntrySerializer(serializers.ModelSerializer[LedgerEntry]):
    """An entry; `digest` is in hex."""

    tenant = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    digest = serializers.SerializerMethodField()

    class Meta:
        model = LedgerEntry
        fields: ClassVar[list[str]] = [
            "tenant", "seq", "at", "kind", "actor", "subject", "channel", "address", "before", "after", "digest",
        ]  # fmt: skip
        read_only_fields = fields

    def get_digest(self, entry: LedgerEntry) -> str:
        """SHA-256 of the entry and of all before it."""
        return bytes(entry.digest).hex()


class LedgerEntryViewSet(ReadOnlyTenantViewSet):
    """The record of administrative changes."""

    model = LedgerEntry
    serializer_class = LedgerEntrySerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "kind": ["exact", "startswith"],
        "actor": ["exact"],
        "subject": ["exact"],
        "channel": ["exact"],
        "address": ["exact"],
        "seq": ["gte", "lte"],
        "at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["subject", "actor"]
    ordering_fields: ClassVar[list[str]] = ["seq", "at"]


ROUTES: Final = (("ledger-entries", LedgerEntryViewSet),)
