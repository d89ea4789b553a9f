"""The entries, and the head of each tenant's chain. PostgreSQL refuses their change by triggers (migration 0001)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django_scopes import ScopedManager

from controlplane.ledger.errors import LedgerIsReadOnly


class LedgerHead(models.Model):
    """The last entry of a tenant's ledger. Its row lock puts the tenant's entries into an order without gaps."""

    tenant = models.OneToOneField("accounts.Tenant", on_delete=models.PROTECT, primary_key=True, related_name="+")
    seq = models.BigIntegerField(default=0)
    digest = models.BinaryField(max_length=32)

    def __str__(self) -> str:
        return f"{self.tenant_id} at {self.seq}"


class LedgerEntryQuerySet(models.QuerySet["LedgerEntry"]):
    """Reads only."""

    def update(self, **_: Any) -> int:
        """Raises `LedgerIsReadOnly`."""
        raise LedgerIsReadOnly

    def delete(self) -> tuple[int, dict[str, int]]:
        """Raises `LedgerIsReadOnly`."""
        raise LedgerIsReadOnly


class LedgerEntry(models.Model):
    """One change: who did what to which object, from where, and what it was before and after, without secrets.

    `digest` = SHA-256 of the entry's canonical form and the digest before it (`actions.digest_of`).
    """

    tenant = models.ForeignKey("accounts.Tenant", on_delete=models.PROTECT, related_name="+")
    seq = models.BigIntegerField()
    at = models.DateTimeField()
    kind = models.CharField(max_length=64)
    actor = models.CharField(max_length=254, help_text="The person's address, or system.")
    actor_user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.DO_NOTHING, null=True, related_name="+", db_constraint=False
    )
    subject = models.CharField(max_length=254, help_text="The object, such as agent:reporter.")
    channel = models.CharField(max_length=16, blank=True, help_text="The way in; empty in entries of early versions.")
    address = models.CharField(max_length=45, blank=True, help_text="The client's address, where there is one.")
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    digest = models.BinaryField(max_length=32)

    objects: Any = ScopedManager(tenant="tenant", _manager_class=models.Manager.from_queryset(LedgerEntryQuerySet))

    class Meta:
        ordering = ("-seq",)
        verbose_name_plural = "ledger entries"
        constraints = (models.UniqueConstraint(fields=("tenant", "seq"), name="ledger_seq_once_per_tenant"),)
        indexes = (
            models.Index(fields=("tenant", "-at")),
            models.Index(fields=("tenant", "kind", "-seq")),
            models.Index(fields=("tenant", "subject", "-seq")),
        )

    def __str__(self) -> str:
        return f"{self.seq} {self.kind} {self.subject}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; raises `LedgerIsReadOnly` for an entry that is there already."""
        if not self._state.adding:
            raise LedgerIsReadOnly
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> tuple[int, dict[str, int]]:
        """Raises `LedgerIsReadOnly`."""
        raise LedgerIsReadOnly
