"""REST of the ledger: read-only."""

from __future__ import annotations

from typing import ClassVar, Final

from django.db.models import QuerySet
from rest_framework import serializers

from controlplane.api import ReadOnlyTenantViewSet
from controlplane.ledger.models import LedgerEntry, PlatformEntry


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


class PlatformEntrySerializer(serializers.ModelSerializer[PlatformEntry]):
    """An entry; `digest` is in hex."""

    digest = serializers.SerializerMethodField()

    class Meta:
        model = PlatformEntry
        fields: ClassVar[list[str]] = [
            "seq", "at", "kind", "actor", "subject", "channel", "address", "before", "after", "digest",
        ]  # fmt: skip
        read_only_fields = fields

    def get_digest(self, entry: PlatformEntry) -> str:
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


class PlatformEntryViewSet(ReadOnlyTenantViewSet):
    """The record of changes that belong to no tenant: tenants themselves, operators, people without a role anywhere.

    For operators who are signed in; a token is good in a tenant, and of this ledger shows nothing.
    """

    model = PlatformEntry
    related = ()
    serializer_class = PlatformEntrySerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "kind": ["exact", "startswith"],
        "actor": ["exact"],
        "subject": ["exact"],
        "channel": ["exact"],
        "address": ["exact"],
        "seq": ["gte", "lte"],
        "at": ["gte", "lte"],
    }
    search_fields: ClassVar[list[str]] = ["subject", "actor"]
    ordering_fields: ClassVar[list[str]] = ["seq", "at"]

    def get_queryset(self) -> QuerySet[PlatformEntry]:
        """All of it for an operator, and nothing for anybody else."""
        entries: QuerySet[PlatformEntry] = PlatformEntry.objects.order_by("-seq")
        is_schema = getattr(self, "swagger_fake_view", False)  # drf-spectacular asks without a caller
        return entries if not is_schema and self.authority.is_operator else entries.none()


ROUTES: Final = (("ledger-entries", LedgerEntryViewSet), ("platform-entries", PlatformEntryViewSet))
