"""Sessions, operations, and the journal batches that they are an index of.

The state of a session:

    granted ──► live ──► closed        by its record (SessionOpened, SessionClosed), or CloseSession before it opened
                 │ ▲
                 ▼ │
                lost                   its worker has been silent; its journal may still come
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import Q
from django_scopes import ScopedManager

from accounts.models import Agent, Tenant
from accounts.tenancy import TenantOwned
from proxyworker.contract import RefusalCode
from sessions.errors import AppendOnly
from sessions.killing.models import KilledSession, KillOrder  # noqa: F401  # Django looks for models in this module
from targets.models import Protocol, ProxyWorker, Target

#: Digest lengths. SHA-256 throughout.
DIGEST_BYTES: Final = 32


class SessionState(models.TextChoices):
    """Where a session is. See the module."""

    GRANTED = "granted", "granted"
    LIVE = "live", "live"
    CLOSED = "closed", "closed"
    LOST = "lost", "lost"


class AgentSession(TenantOwned):
    """One agent on one target through one worker. `id` is the session's everywhere."""

    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="+")
    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="+")
    worker = models.ForeignKey(ProxyWorker, on_delete=models.PROTECT, related_name="+")
    process = models.PositiveSmallIntegerField(default=0, help_text="Which of the worker's processes, from 0 on.")
    protocol = models.CharField(max_length=16, choices=Protocol.choices)
    client_address = models.CharField(max_length=64)
    client_name = models.CharField(max_length=200, blank=True)
    tls_version = models.CharField("TLS version", max_length=32, blank=True)
    tls_cipher = models.CharField("TLS cipher", max_length=64, blank=True)
    policy_version = models.CharField(max_length=200)
    rule = models.CharField(max_length=200, help_text="The rule that allowed the session.")
    credential_id = models.CharField(max_length=64, help_text="What the agent proved itself by; never the proof.")
    principal = models.JSONField(help_text="Who asked, as the grant said it.")
    state = models.CharField(max_length=8, choices=SessionState.choices, default=SessionState.GRANTED)
    granted_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    opened_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    close_reason = models.CharField(max_length=200, blank=True)
    operation_count = models.PositiveIntegerField("operations", default=0)
    end_requested_at = models.DateTimeField(null=True)
    withdrawn_at = models.DateTimeField(null=True, help_text="When a right that it lived on was taken away.")
    end_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    end_reason = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name = "session"
        ordering = ["-granted_at"]
        indexes = [
            models.Index(fields=["tenant", "-granted_at"], name="session_recent"),
            models.Index(fields=["agent", "-granted_at"], name="session_by_agent"),
            models.Index(fields=["target", "-granted_at"], name="session_by_target"),
            # What a link's poll and the expiry task look at: few rows, whatever the history's length.
            models.Index(fields=["worker"], name="session_unfinished", condition=~Q(state=SessionState.CLOSED)),
        ]

    def __str__(self) -> str:
        return f"{self.agent} on {self.target}"

    @property
    def seconds_to_end(self) -> float | None:
        """From the moment when it had to end to the worker's record that it has; None while it has not, or needn't."""
        starts = [at for at in (self.end_requested_at, self.withdrawn_at) if at is not None]
        if not starts or self.closed_at is None:
            return None
        return max(0.0, (self.closed_at - min(starts)).total_seconds())  # the record's clock is the worker's


class OperationStatus(models.TextChoices):
    """How an operation stands: the contract's outcomes, and `running` until there is one."""

    RUNNING = "running", "running"
    OK = "ok", "ok"
    ERROR = "error", "error"
    DENIED = "denied", "denied"
    UNKNOWN = "unknown", "unknown outcome"


class Operation(models.Model):
    """One thing that an agent wanted done. Indexed from the journal by `sessions.ingest`; never written otherwise.

    `op` counts from 1 within the session. Sizes are bytes. Not a `TenantOwned`: there are many, so the key is small and
    grows, and what the session's row already guarantees is not checked again for each.
    """

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False)
    session = models.ForeignKey(AgentSession, on_delete=models.PROTECT, related_name="+", db_index=False)
    op = models.PositiveIntegerField("number")
    at = models.DateTimeField()
    kind = models.CharField(max_length=32)
    text = models.TextField("statement")
    text_bytes = models.PositiveBigIntegerField()
    text_sha256 = models.BinaryField(max_length=DIGEST_BYTES)
    parameters = models.JSONField()
    effect = models.CharField("decision", max_length=16)
    rule = models.CharField(max_length=200)
    reason = models.TextField()
    policy_version = models.CharField(max_length=200)
    status = models.CharField(max_length=8, choices=OperationStatus.choices)
    finished_at = models.DateTimeField(null=True)
    duration_us = models.PositiveBigIntegerField("duration (µs)", null=True)
    rows = models.BigIntegerField(null=True)
    bytes_in = models.PositiveBigIntegerField(null=True)
    bytes_out = models.PositiveBigIntegerField(null=True)
    content_sha256 = models.BinaryField(max_length=DIGEST_BYTES, null=True, help_text="Of what the agent was shown.")
    content_in_sha256 = models.BinaryField(max_length=DIGEST_BYTES, null=True, help_text="Of what the agent sent.")
    error_code = models.CharField(max_length=32, blank=True)
    error_message = models.TextField(blank=True)
    tags = models.JSONField(default=list)
    columns = models.JSONField(default=list)
    facts = models.JSONField(null=True, help_text="What it was understood to be: `policies.engine.Operation`.")
    #: Of the request that was asked, or by whose grant it passed. A plain value: the record doesn't wait for the row.
    approval_id = models.UUIDField("approval", null=True)
    approval_state = models.CharField(max_length=16, blank=True, help_text="What became of the approval it needed.")
    approval_reason = models.TextField(blank=True)

    objects: Any = ScopedManager(tenant="tenant")

    class Meta:
        ordering = ["session", "op"]
        constraints = [models.UniqueConstraint(fields=["session", "op"], name="operation_unique_in_session")]
        indexes = [
            models.Index(fields=["tenant", "-at"], name="operation_recent"),
            # The rare ones that people look for: they must not wait for a scan of all that went well.
            models.Index(
                fields=["tenant", "status", "-at"],
                name="operation_notable",
                condition=~Q(status=OperationStatus.OK),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.session_id}/{self.op}"

    @property
    def is_cut(self) -> bool:
        """True when `text` is only the statement's beginning."""
        return len(self.text.encode()) < self.text_bytes


class Journal(TenantOwned):
    """A worker's journal, and how much of it is held here. The row is what an ingest locks."""

    worker = models.ForeignKey(ProxyWorker, on_delete=models.PROTECT, related_name="+")
    journal_id = models.UUIDField()
    last_seq = models.PositiveBigIntegerField(default=0)
    last_chain = models.BinaryField(max_length=DIGEST_BYTES)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["worker", "journal_id"], name="journal_unique_in_worker")]

    def __str__(self) -> str:
        return f"{self.journal_id}"


class JournalBatch(TenantOwned):
    """Records as the worker wrote them: the truth. Append-only, by this class and by a trigger.

    `payload` is zstd of the records, each after its length as a big-endian u32. `chain_before` and `chain_after` are
    the contract's hash chain around them.
    """

    journal = models.ForeignKey(Journal, on_delete=models.PROTECT, related_name="+", db_index=False)
    first_seq = models.PositiveBigIntegerField()
    last_seq = models.PositiveBigIntegerField()
    chain_before = models.BinaryField(max_length=DIGEST_BYTES)
    chain_after = models.BinaryField(max_length=DIGEST_BYTES)
    payload = models.BinaryField()

    class Meta:
        verbose_name_plural = "journal batches"
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["journal", "first_seq"], name="journal_batch_unique")]
        indexes = [models.Index(fields=["tenant", "-created_at"], name="journal_batch_recent")]

    def __str__(self) -> str:
        return f"{self.first_seq} to {self.last_seq}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert. Raises `AppendOnly` for a row that exists."""
        if not self._state.adding:
            raise AppendOnly("journal batch")
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `AppendOnly`."""
        raise AppendOnly("journal batch")


class ContentSegment(TenantOwned):
    """A file with what the agent sent and was shown. `index` counts from 0 within the session."""

    session = models.ForeignKey(AgentSession, on_delete=models.PROTECT, related_name="+", db_index=False)
    index = models.PositiveIntegerField()
    sha256 = models.BinaryField(max_length=DIGEST_BYTES)
    size_bytes = models.PositiveBigIntegerField()
    storage_name = models.CharField(max_length=255)

    class Meta:
        ordering = ["session", "index"]
        constraints = [models.UniqueConstraint(fields=["session", "index"], name="content_segment_unique")]
        indexes = [models.Index(fields=["tenant", "-created_at"], name="content_segment_recent")]

    def __str__(self) -> str:
        return f"{self.session_id}/{self.index}"


class SessionRefusal(TenantOwned):
    """Refused attempts to open a session, one row for each kind and hour: a retrying agent fills no table."""

    worker = models.ForeignKey(ProxyWorker, on_delete=models.CASCADE, related_name="+")
    agent = models.ForeignKey(Agent, null=True, on_delete=models.CASCADE, related_name="+")
    target_name = models.CharField("target", max_length=63, help_text="As the agent wrote it.")
    client_host = models.CharField(max_length=64)
    code = models.CharField(max_length=32, choices=[(code.value, code.value.replace("_", " ")) for code in RefusalCode])
    reason = models.CharField(max_length=500)
    hour = models.DateTimeField()
    last_at = models.DateTimeField()
    count = models.PositiveIntegerField(default=1)

    class Meta:
        verbose_name = "refused attempt"
        ordering = ["-last_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["worker", "agent", "target_name", "client_host", "code", "hour"],
                name="session_refusal_unique_in_hour",
                nulls_distinct=False,
            )
        ]
        indexes = [models.Index(fields=["tenant", "-last_at"], name="session_refusal_recent")]

    def __str__(self) -> str:
        return f"{self.agent or 'somebody'} to {self.target_name}: {self.code}"
