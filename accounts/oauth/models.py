"""What agents were issued to prove themselves at the token endpoint. `accounts.models` imports it for Django."""

from __future__ import annotations

from django.db import models

from accounts.tenancy import TenantOwned
from accounts.tokens import DIGEST_CHARACTERS


class ClientAuthentication(models.TextChoices):
    """How a client proves itself (RFC 7591, 2)."""

    PRIVATE_KEY_JWT = "private_key_jwt", "signed assertion (private_key_jwt)"
    CLIENT_SECRET = "client_secret", "client secret"


class OAuthClient(TenantOwned):
    """A credential with which an agent gets tokens. Of a secret the digest is kept, of a key pair the public half."""

    agent = models.ForeignKey("accounts.Agent", on_delete=models.CASCADE, related_name="oauth_clients")
    client_id = models.CharField(max_length=20, unique=True, editable=False)
    label = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    authentication = models.CharField(max_length=16, choices=ClientAuthentication.choices)
    digest = models.CharField(max_length=DIGEST_CHARACTERS, blank=True, editable=False)
    public_keys = models.JSONField(
        "public keys", default=list, blank=True, help_text="JWKs that verify its assertions."
    )
    is_active = models.BooleanField(default=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "OAuth client"

    def __str__(self) -> str:
        return f"{self.client_id} of {self.agent}"


class UsedAssertion(TenantOwned):
    """An assertion that was shown once, kept until it expires: shown again, it is refused."""

    digest = models.CharField(max_length=DIGEST_CHARACTERS)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("tenant", "digest"), name="assertion_used_once"),)

    def __str__(self) -> str:
        return self.digest


class SshAuthority(TenantOwned):
    """A tenant's key that signs user certificates. Targets trust its public half."""

    public_key = models.CharField(max_length=200)
    sealed_key = models.TextField(editable=False)

    class Meta:
        verbose_name_plural = "SSH authorities"
        constraints = (models.UniqueConstraint(fields=("tenant",), name="ssh_authority_once_per_tenant"),)

    def __str__(self) -> str:
        return self.public_key
