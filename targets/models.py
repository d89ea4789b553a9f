"""Targets, their credentials, what their columns hold, and the workers. Rows are changed by `targets.actions` only."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from accounts.models import HashedToken
from accounts.tenancy import TenantOwned
from targets.processes.models import WorkerProcess  # noqa: F401  # Django looks for models in this module

#: A target is named in a connection string, a host name and a path: the form of a DNS label fits all three.
TARGET_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
#: A worker's name is for people and logs.
WORKER_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z"
#: An Ed25519 public key, raw (RFC 8032).
PUBLIC_KEY_BYTES: Final = 32
#: A link says something at least every `HEARTBEAT_SECONDS`; after three silent ones the worker counts as gone.
HEARTBEAT_SECONDS: Final = 10.0
SILENT_AFTER_SECONDS: Final = 3 * HEARTBEAT_SECONDS

#: What a column is said to hold: a short word, such as `email` or `pii.card`. The form is the policy engine's, which
#: this app must not know; a test holds that.
COLUMN_LABEL_PATTERN: Final = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z"
#: PostgreSQL's names have no more (NAMEDATALEN).
MAX_IDENTIFIER_BYTES: Final = 63

target_name_validator = RegexValidator(
    TARGET_NAME_PATTERN, "Use 1 to 63 small letters, digits and hyphens, with a letter or digit at both ends."
)
worker_name_validator = RegexValidator(
    WORKER_NAME_PATTERN, "Use 1 to 63 small letters, digits, dots, hyphens and underscores."
)
column_label_validator = RegexValidator(
    COLUMN_LABEL_PATTERN, "Use 1 to 63 small letters, digits, dots, hyphens and underscores."
)


def validate_identifier(name: str) -> None:
    """Raises `ValidationError` for what can't name a schema, a table or a column."""
    if len(name.encode()) > MAX_IDENTIFIER_BYTES or not name.isprintable():
        raise ValidationError(f"Use at most {MAX_IDENTIFIER_BYTES} bytes, all printable, as the target has it.")


class Protocol(models.TextChoices):
    """What a target speaks."""

    POSTGRES = "postgres", "PostgreSQL"


class TlsCheck(models.TextChoices):
    """How the target's certificate is checked. The values are `proxyworker.contract.TlsMode`'s, and a test holds that:
    the contract knows the policy engine, and this app must not."""

    DISABLE = "disable", "No TLS"
    VERIFY_CA = "verify-ca", "TLS, certificate authority checked"
    VERIFY_FULL = "verify-full", "TLS, authority and host name checked"


class Target(TenantOwned):
    """A system that agents reach through the gate, under this name."""

    name = models.CharField(max_length=63, validators=[target_name_validator])
    protocol = models.CharField(max_length=16, choices=Protocol.choices, default=Protocol.POSTGRES)
    host = models.CharField(max_length=253, help_text="Host name or address, as the workers see it.")
    port = models.PositiveIntegerField(default=5432, validators=[MinValueValidator(1), MaxValueValidator(65535)])
    database = models.CharField(max_length=63, help_text="The database's name on the target itself.")
    tls_mode = models.CharField(
        "TLS", max_length=16, choices=TlsCheck.choices, default=TlsCheck.VERIFY_FULL, help_text="Of the upstream leg."
    )
    ca_pem = models.TextField(
        "trusted certificates",
        blank=True,
        max_length=64 * 1024,
        help_text="PEM. Empty: the roots of the worker's system.",
    )
    labels = models.JSONField(default=dict, blank=True, help_text="Free key-value pairs, texts on both sides.")
    environment = models.CharField(max_length=32, blank=True, help_text="For people: production, staging, …")
    is_active = models.BooleanField("active", default=True, help_text="Off: no session starts, and live ones end.")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="target_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises `ValidationError` for labels that aren't pairs of texts."""
        super().clean()
        labels = self.labels
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise ValidationError({"labels": 'Use pairs of texts, such as {"team": "orders"}.'})
        if not all(_can_be_kept(text) for pair in labels.items() for text in pair):
            raise ValidationError({"labels": "Use characters only: no NUL, and no half of a surrogate pair."})


class Credential(TenantOwned):
    """How the gate signs on to a target. `sealed_secret` is bound to this row and never shown."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="credential")
    username = models.CharField(max_length=128)
    sealed_secret = models.TextField(editable=False)
    secret_set_at = models.DateTimeField(editable=False)

    class Meta:
        ordering = ["target__name"]

    def __str__(self) -> str:
        return f"{self.username} on {self.target}"

    @property
    def sealing_context(self) -> str:
        """What the secret is bound to: a sealed secret copied to another row doesn't open."""
        return f"targets.credential:{self.pk}"


class LabelSource(models.TextChoices):
    """Who says what a column holds."""

    PERSON = "person", "a person"
    DISCOVERY = "discovery", "discovery"


class ColumnLabel(TenantOwned):
    """One thing that a column of a target holds. A column has as many labels as there are rows.

    Schema, table and column are the target's own names, without quotes. A label is added or removed, never changed.
    """

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="column_labels")
    schema = models.CharField(max_length=63, default="public", validators=[validate_identifier])
    table = models.CharField(max_length=63, validators=[validate_identifier], help_text="Or a view.")
    column = models.CharField(max_length=63, validators=[validate_identifier])
    label = models.CharField(
        max_length=63, validators=[column_label_validator], help_text="What it holds, such as email, card or pii."
    )
    source = models.CharField(max_length=16, choices=LabelSource.choices, default=LabelSource.PERSON, editable=False)
    labelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["target__name", "schema", "table", "column", "label"]
        constraints = [
            models.UniqueConstraint(
                fields=["target", "schema", "table", "column", "label"],
                name="column_label_once",
                violation_error_message="The column has that label already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.target} {self.schema}.{self.table}.{self.column} {self.label}"


class ProxyWorker(TenantOwned):
    """A worker, known by the key that it made itself."""

    name = models.CharField(max_length=63, validators=[worker_name_validator])
    public_key = models.BinaryField(max_length=PUBLIC_KEY_BYTES, editable=False)
    enrolled_at = models.DateTimeField(editable=False)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    version = models.CharField(max_length=64, blank=True, editable=False)
    reported_sessions = models.PositiveIntegerField(default=0, editable=False)
    reported_journal_bytes = models.PositiveBigIntegerField(default=0, editable=False)
    is_active = models.BooleanField("active", default=True, help_text="Off: its link is closed and its sessions end.")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], name="worker_name_unique_in_tenant"),
            models.UniqueConstraint(fields=["public_key"], name="worker_key_unique"),
        ]

    def __str__(self) -> str:
        return self.name


class JoinToken(HashedToken):
    """Lets one worker enrol, under this name and once: `last_used_at` is when, `used_by` who."""

    worker_name = models.CharField(max_length=63, validators=[worker_name_validator])
    used_by = models.ForeignKey(
        ProxyWorker, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.token_id} for {self.worker_name}"


def _can_be_kept(text: str) -> bool:
    """Whether PostgreSQL keeps it; JSON can write more."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
