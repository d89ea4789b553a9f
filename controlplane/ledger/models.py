"""The entries, and the head of each chain. PostgreSQL refuses their change by grants and triggers (migration 0002)."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django_scopes import ScopedManager

from controlplane.ledger.errors import LedgerIsReadOnly


class Head(models.Model):
    """The last entry of a ledger. Its row lock puts the ledger's entries into an order without gaps."""

    seq = models.BigIntegerField(default=0)
    digest = models.BinaryField(max_length=32)

    class Meta:
        abstract = True


class LedgerHead(Head):
    """Of a tenant's ledger."""

    tenant = models.OneToOneField("accounts.Tenant", on_delete=models.PROTECT, primary_key=True, related_name="+")

    def __str__(self) -> str:
        return f"{self.tenant_id} at {self.seq}"


class PlatformHead(Head):
    """Of the platform's ledger: one row."""

    id = models.SmallIntegerField(primary_key=True, default=1)

    class Meta:
        constraints = (models.CheckConstraint(name="platform_head_is_one", condition=models.Q(id=1)),)

    def __str__(self) -> str:
        return f"platform at {self.seq}"


class EntryQuerySet(models.QuerySet[Any]):
    """Reads only."""

    def update(self, **_: Any) -> int:
        """Raises `LedgerIsReadOnly`."""
        raise LedgerIsReadOnly

    def delete(self) -> tuple[int, dict[str, int]]:
        """Raises `LedgerIsReadOnly`."""
        raise LedgerIsReadOnly


class Entry(models.Model):
    """One change: who did what to which object, from where, and what it was before and after, without secrets.

    `digest` = SHA-256 of the entry's canonical form and the digest before it (`actions.digest_of`).
    """

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

    class Meta:
        abstract = True

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


class LedgerEntry(Entry):
    """A change in a tenant."""

    tenant = models.ForeignKey("accounts.Tenant", on_delete=models.PROTECT, related_name="+")

    objects: Any = ScopedManager(tenant="tenant", _manager_class=models.Manager.from_queryset(EntryQuerySet))

    class Meta:
        ordering = ("-seq",)
        verbose_name_plural = "ledger entries"
        constraints = (models.UniqueConstraint(fields=("tenant", "seq"), name="ledger_seq_once_per_tenant"),)
        indexes = (
            models.Index(fields=("tenant", "-at")),
            models.Index(fields=("tenant", "kind", "-seq")),
            models.Index(fields=("tenant", "subject", "-seq")),
        )


class PlatformEntry(Entry):
    """A change of what belongs to no tenant: tenants themselves, operators, and people without a role anywhere.

    Operators see it. It tells nothing of what is inside of a tenant.
    """

    #: As `digest_of` asks for it.
    tenant_id: ClassVar[None] = None

    objects: Any = models.Manager.from_queryset(EntryQuerySet)()

    class Meta:
        ordering = ("-seq",)
        verbose_name = "platform entry"
        verbose_name_plural = "platform entries"
        constraints = (models.UniqueConstraint(fields=("seq",), name="platform_seq_once"),)
        indexes = (models.Index(fields=("-at",)),)
