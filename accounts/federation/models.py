"""A tenant's identity providers for people, the roles that their groups give, and whom they have vouched for."""

from __future__ import annotations

from typing import Final

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models

from accounts.tenancy import TenantOwned
from controlplane.authority import Role

#: Metadata of a large SAML provider with its certificates is some tens of kilobytes.
MAX_METADATA_CHARACTERS: Final = 256 * 1024
MAX_EMAIL_DOMAINS: Final = 50

provider_slug_validator = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", "Use 1 to 63 small letters, digits and hyphens."
)
domain_validator = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+\Z", "Use domains such as acme.example."
)


class ProviderKind(models.TextChoices):
    """The protocol."""

    OIDC = "oidc", "OpenID Connect"
    SAML = "saml", "SAML 2.0"


class ProviderPreset(models.TextChoices):
    """Whose product it is; the form's hints and docs/identity.md follow it, the checks never do."""

    OKTA = "okta", "Okta"
    ENTRA = "entra", "Microsoft Entra ID"
    GOOGLE = "google", "Google Workspace"
    KEYCLOAK = "keycloak", "Keycloak"
    OTHER = "other", "Other"


class IdentityProvider(TenantOwned):
    """A provider that vouches for people of this tenant. Its secret is the OIDC client's, or our SAML key."""

    slug = models.CharField(
        max_length=63, validators=[provider_slug_validator], help_text="In the URLs that are pasted at the provider."
    )
    name = models.CharField(max_length=100, help_text="On the sign-in button.")
    kind = models.CharField(max_length=8, choices=ProviderKind.choices, default=ProviderKind.OIDC)
    preset = models.CharField(max_length=16, choices=ProviderPreset.choices, default=ProviderPreset.OTHER)
    is_active = models.BooleanField(default=True)
    issuer = models.CharField(
        "issuer or entity ID", max_length=500, help_text="Exactly the `iss` of its tokens, or its SAML entity ID."
    )
    metadata_url = models.CharField(
        "metadata URL",
        max_length=500,
        blank=True,
        help_text="Of the SAML metadata, or the OIDC discovery document. Empty: what is pasted; else by the issuer.",
    )
    metadata = models.TextField(
        "pasted metadata",
        max_length=MAX_METADATA_CHARACTERS,
        blank=True,
        help_text="The discovery document (JSON) or metadata (XML), where it can't be fetched.",
    )
    client_id = models.CharField("client ID", max_length=500, blank=True, help_text="OIDC only.")
    sealed_secret = models.TextField(blank=True, editable=False)
    certificate = models.TextField(blank=True, editable=False, help_text="Of our SAML key, in PEM.")
    scopes = models.CharField(max_length=200, default="openid email profile", help_text="OIDC only.")
    email_claim = models.CharField(max_length=200, default="email", help_text="The claim or attribute of the address.")
    groups_claim = models.CharField(
        max_length=200, default="groups", help_text="The claim or attribute whose values the role mappings name."
    )
    email_domains = ArrayField(
        models.CharField(max_length=253, validators=[domain_validator]),
        default=list,
        blank=True,
        size=MAX_EMAIL_DOMAINS,
        help_text="It may vouch for addresses of these domains only. Empty: for any.",
    )
    wants_signed_response = models.BooleanField(
        "response must be signed", default=False, help_text="SAML only; the assertion always must be."
    )
    allows_unasked = models.BooleanField(
        "IdP-initiated sign-in", default=False, help_text="SAML only. Anybody can then sign a person in unasked."
    )

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("tenant", "slug"), name="identity_provider_once_per_tenant"),)

    def __str__(self) -> str:
        return self.slug

    @property
    def is_oidc(self) -> bool:
        """OIDC, else SAML."""
        return self.kind == ProviderKind.OIDC

    @property
    def jwks_url(self) -> str:
        """Empty: by the discovery document (`accounts.jwks.KeySource`)."""
        return ""

    @property
    def secret_context(self) -> str:
        """What the sealed secret is bound to."""
        return f"accounts.identity_provider:{self.pk}"


class RoleMapping(TenantOwned):
    """Whoever the provider puts into `group` gets `role`; of several, the most powerful. No group, no access."""

    provider = models.ForeignKey(IdentityProvider, on_delete=models.CASCADE, related_name="role_mappings")
    group = models.CharField(max_length=250)
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)

    class Meta:
        ordering = ("group",)
        constraints = (models.UniqueConstraint(fields=("provider", "group"), name="role_mapping_once"),)

    def __str__(self) -> str:
        return f"{self.group} → {self.role}"


class FederatedIdentity(TenantOwned):
    """The person behind a provider's subject. Addresses change hands; subjects don't."""

    provider = models.ForeignKey(IdentityProvider, on_delete=models.CASCADE, related_name="identities")
    subject = models.CharField(max_length=500)
    user = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="federated_identities")
    groups = ArrayField(models.CharField(max_length=250), default=list, blank=True)
    last_sign_in_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("provider", "subject")
        verbose_name_plural = "federated identities"
        constraints = (
            models.UniqueConstraint(fields=("provider", "subject"), name="federated_subject_once"),
            models.UniqueConstraint(fields=("provider", "user"), name="federated_user_once"),
        )

    def __str__(self) -> str:
        return f"{self.subject} at {self.provider}"
