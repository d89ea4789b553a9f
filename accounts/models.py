"""Tenants, people, agents and the proofs of both. Rows are changed by `accounts.actions` only."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar, Final

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Lower

from accounts.federation.models import (  # noqa: F401  # Django looks for models in this module
    MAX_METADATA_CHARACTERS,
    FederatedIdentity,
    IdentityProvider,
    RoleMapping,
)
from accounts.matching import MAX_CONDITION_CHARACTERS, MAX_CONDITIONS, BadCondition, parse_condition
from accounts.oauth.models import OAuthClient, SshAuthority, UsedAssertion  # noqa: F401  # Django looks for models here
from accounts.scim.models import ScimGroup, ScimMember, ScimUser  # noqa: F401  # Django looks for models here
from accounts.signin.models import SignIn, TotpDevice  # noqa: F401  # Django looks for models in this module
from accounts.tenancy import TenantOwned
from accounts.tokens import DIGEST_CHARACTERS, ID_CHARACTERS
from controlplane.authority import Role
from controlplane.ledger.actions import append_entry
from controlplane.origin import Channel, current_origin
from controlplane.tenancy import every_tenant

SLUG_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
AGENT_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9._@-]{0,98}[a-z0-9])?\Z"
GROUP_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._:@/-]{0,98}[A-Za-z0-9])?\Z"
#: A principal goes with every grant and record; more groups than this are a directory, not a role.
MAX_GROUPS: Final = 100
MAX_LABELS: Final = 20
#: RFC 7519 wants "no more than a few minutes" of leeway.
MAX_CLOCK_SKEW_SECONDS: Final = 300

slug_validator = RegexValidator(SLUG_PATTERN, "Use 1 to 63 small letters, digits and hyphens.")
agent_name_validator = RegexValidator(
    AGENT_NAME_PATTERN, "Use 1 to 100 small letters, digits and . _ @ - with a letter or digit at both ends."
)
group_validator = RegexValidator(GROUP_PATTERN, "Use 1 to 100 letters, digits and . _ : @ / - for a group.")


class Tenant(models.Model):
    """An organisation; everything else belongs to one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(max_length=63, unique=True, validators=[slug_validator])
    name = models.CharField(max_length=200)
    is_active = models.BooleanField(default=True)
    requires_review = models.BooleanField(
        "policies are reviewed",
        default=False,
        help_text="A policy's rules are published only after a second person has approved them.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class UserManager(BaseUserManager["User"]):
    """Finds people by e-mail address, whatever its case."""

    def get_by_natural_key(self, username: str | None) -> User:
        """The user with this address. Raises `User.DoesNotExist`."""
        return self.get(email=(username or "").lower())

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A new person; without a password nobody can sign in as them by one."""
        user = self.model(email=email.lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A new operator of this installation (`manage.py createsuperuser`), told in the platform's ledger."""
        with transaction.atomic():
            user = self.create_user(email, password, is_superuser=True, **fields)
            append_entry(
                tenant=None,
                kind="user.created",
                acting_user=None,
                subject=f"user:{user}",
                before=None,
                after={"email": user.email, "is_superuser": True, "password": password is not None},
            )
        return user


class User(AbstractBaseUser):
    """A person. What they may do comes of their memberships; an operator (`is_superuser`) manages tenants."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)
    is_superuser = models.BooleanField("operator", default=False, help_text="May do everything in every tenant.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        ordering = ("email",)
        constraints = (models.CheckConstraint(name="user_email_is_lower_case", condition=Q(email=Lower("email"))),)

    #: Whoever sets a password through `actions` tells of it; what Django's own page and command set is told by `save`.
    is_password_told: bool = False

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; a new password that nobody tells of is told in the same transaction."""
        is_told = self.is_password_told or vars(self).get("_password") is None or self._state.adding
        with transaction.atomic():
            super().save(*args, **kwargs)
            for ledger in () if is_told else ledgers_of(self, is_operators=self.is_superuser):
                append_entry(
                    tenant=ledger,
                    kind="user.password_changed",
                    # By the web people change their own: others' are set by `actions.save_user`.
                    acting_user=None if current_origin().channel in (Channel.CLI, Channel.SYSTEM) else self,
                    subject=f"user:{self}",
                    before=None,
                    after={"password": True},
                )
        self.is_password_told = False

    def clean(self) -> None:
        """Fold the address's case, so that one person has one account."""
        super().clean()
        self.email = self.email.lower()

    def get_full_name(self) -> str:
        """The name, where pages ask for one; empty when nobody has said it."""
        return self.name

    @property
    def is_staff(self) -> bool:
        """Every active person may open the admin; it shows them what their roles permit."""
        return self.is_active

    def has_perm(self, perm: str, obj: object | None = None) -> bool:  # noqa: ARG002  # Django's signature
        """Django's permissions aren't used; pages that know nothing else are for operators."""
        return self.is_active and self.is_superuser

    def has_module_perms(self, app_label: str) -> bool:  # noqa: ARG002  # Django's signature
        """See `has_perm`."""
        return self.is_active and self.is_superuser


class Membership(TenantOwned):
    """A person's role in a tenant."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)
    given_by = models.ForeignKey(
        IdentityProvider,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        editable=False,
        help_text="The provider whose groups gave the role, and take it at the next sign-in; empty: given by hand.",
    )

    class Meta:
        ordering = ("tenant__slug", "user__email")
        constraints = (models.UniqueConstraint(fields=("tenant", "user"), name="membership_once_per_tenant"),)

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.tenant}"


def ledgers_of(user: User, *, is_operators: bool) -> list[Tenant | None]:
    """Where a change of the person is told: each of their tenants, and the platform (None) as the last."""
    with every_tenant():
        memberships = user.memberships.select_related("tenant").order_by("tenant_id")
        tenants = [membership.tenant for membership in memberships]
    return [*tenants, None] if is_operators or not tenants else [*tenants]


class Agent(TenantOwned):
    """What connects to targets: a program, under a name that policies cite."""

    name = models.CharField(max_length=100, validators=[agent_name_validator])
    description = models.CharField(max_length=500, blank=True)
    sponsor = models.ForeignKey(
        User,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="sponsored_agents",
        help_text="The person who answers for this agent.",
    )
    groups = ArrayField(
        models.CharField(max_length=100, validators=[group_validator]), size=MAX_GROUPS, default=list, blank=True
    )
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("tenant", "name"), name="agent_name_once_per_tenant"),)

    def __str__(self) -> str:
        return self.name


class HashedToken(TenantOwned):
    """A token of which only the digest is kept. It is good while neither revoked nor expired."""

    label = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    token_id = models.CharField(max_length=ID_CHARACTERS, unique=True, editable=False)
    digest = models.CharField(max_length=DIGEST_CHARACTERS, editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


class TokenKind(models.TextChoices):
    """What a token is, and how it came to be."""

    ISSUED = "issued", "issued by a person"
    EXCHANGED = "exchanged", "from the token endpoint"
    DATABASE_LOGIN = "database_login", "database login"
    SSH_CERTIFICATE = "ssh_certificate", "SSH certificate"


class AgentToken(HashedToken):
    """A password with which an agent connects."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="tokens")
    issued_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    kind = models.CharField(max_length=16, choices=TokenKind.choices, default=TokenKind.ISSUED, editable=False)
    targets = ArrayField(
        models.CharField(max_length=63), null=True, blank=True, help_text="The only targets that it opens; none: any."
    )
    carried = models.JSONField(
        default=dict,
        blank=True,
        help_text="What the token that it was made from said of the agent and who is behind it.",
    )
    trust = models.ForeignKey(
        "OidcTrust", on_delete=models.CASCADE, null=True, blank=True, related_name="+", help_text="Made from its JWT."
    )
    client = models.ForeignKey(OAuthClient, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    #: Of a database login, in PostgreSQL's form: SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>.
    scram_verifier = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("expires_at",)),)

    def __str__(self) -> str:
        return f"{self.token_id} of {self.agent}"


class ApiToken(HashedToken):
    """A person's token for REST, good in one tenant and never for more than their role there."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API token"
        indexes = (models.Index(fields=("expires_at",)),)

    def __str__(self) -> str:
        return f"{self.token_id} of {self.user}"


class ServicePurpose(models.TextChoices):
    """What a service token is good for."""

    SCIM = "scim", "SCIM provisioning"
    INTROSPECTION = "introspection", "token introspection"


class ServiceToken(HashedToken):
    """A tenant's token for a machine that serves it, good for one purpose. It is no person's and survives them."""

    purpose = models.CharField(max_length=16, choices=ServicePurpose.choices)

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("expires_at",)),)

    def __str__(self) -> str:
        return f"{self.token_id} for {self.purpose}"


class SigningAlgorithm(models.TextChoices):
    """Signatures that a trust may accept: asymmetric ones only (RFC 8725, 3.1 and 3.2)."""

    RS256 = "RS256", "RS256"
    RS384 = "RS384", "RS384"
    RS512 = "RS512", "RS512"
    PS256 = "PS256", "PS256"
    PS384 = "PS384", "PS384"
    PS512 = "PS512", "PS512"
    ES256 = "ES256", "ES256"
    ES384 = "ES384", "ES384"
    ES512 = "ES512", "ES512"
    ED25519 = "Ed25519", "Ed25519"


#: What every provider of today can sign with.
DEFAULT_ALGORITHMS: Final = (SigningAlgorithm.RS256, SigningAlgorithm.ES256)


class TrustKind(models.TextChoices):
    """What a trusted provider's proofs are. JWTs are taken wherever an agent proves itself, others are exchanged."""

    JWT = "jwt", "JWT (OpenID Connect)"
    SAML = "saml", "SAML 2.0 assertion"
    AWS = "aws", "AWS: signed GetCallerIdentity"


class OidcTrust(TenantOwned):
    """A provider whose proofs, made for this audience, stand for agents of the tenant. `TrustRule` says which."""

    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=8, choices=TrustKind.choices, default=TrustKind.JWT)
    issuer = models.CharField(
        max_length=500,
        help_text="Exactly the token's `iss`, the SAML entity ID, or for AWS https://sts.amazonaws.com.",
    )
    audience = models.CharField(
        max_length=500,
        help_text="One of the token's `aud` or of the assertion's audiences; for AWS the signed X-Narrowgate-Audience.",
    )
    jwks_url = models.CharField(
        "JWKS URL", max_length=500, blank=True, help_text="Empty: by the issuer's discovery document."
    )
    metadata_url = models.CharField("metadata URL", max_length=500, blank=True, help_text="SAML only.")
    metadata = models.TextField(
        "pasted metadata",
        max_length=MAX_METADATA_CHARACTERS,
        blank=True,
        help_text="SAML only, where it can't be fetched.",
    )
    algorithms = ArrayField(models.CharField(max_length=8, choices=SigningAlgorithm.choices), help_text="Of JWTs.")
    clock_skew_seconds = models.PositiveSmallIntegerField(
        default=30, validators=[MaxValueValidator(MAX_CLOCK_SKEW_SECONDS)]
    )
    person_claim = models.CharField(
        max_length=100, blank=True, help_text="The claim that names the person on whose behalf the agent acts."
    )
    groups_claim = models.CharField(
        max_length=200, blank=True, help_text="The claim that lists groups; the agent has them beside its own."
    )
    label_claims = ArrayField(
        models.CharField(max_length=200),
        size=MAX_LABELS,
        default=list,
        blank=True,
        help_text="Claims that are kept with the session, such as repository or /kubernetes.io/namespace.",
    )
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "trust"
        constraints = (
            models.UniqueConstraint(fields=("tenant", "name"), name="oidc_trust_name_once_per_tenant"),
            models.UniqueConstraint(fields=("tenant", "issuer", "audience"), name="oidc_trust_once_per_tenant"),
        )
        indexes = (models.Index(fields=("issuer", "audience")),)

    def __str__(self) -> str:
        return self.name


class TrustRule(TenantOwned):
    """A token of this trust for which all conditions hold stands for `agent`. See `matching` for how one is written."""

    trust = models.ForeignKey(OidcTrust, on_delete=models.CASCADE, related_name="rules")
    conditions = ArrayField(
        models.CharField(max_length=MAX_CONDITION_CHARACTERS), size=MAX_CONDITIONS, help_text="All of them must hold."
    )
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="trust_rules")

    class Meta:
        ordering = ("conditions",)

    def __str__(self) -> str:
        return f"{' and '.join(self.conditions)} → {self.agent}"

    def clean(self) -> None:
        """Each condition must be one."""
        super().clean()
        for line in self.conditions or ():
            try:
                parse_condition(line)
            except BadCondition as error:
                raise ValidationError({"conditions": str(error)}) from None
