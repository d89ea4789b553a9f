"""A person's sign-in, and the second factor of a local account."""

from __future__ import annotations

import uuid
from typing import ClassVar, Final, Self

from django.db import models
from django.utils import timezone
from django_otp.models import Device, ThrottlingMixin, TimestampMixin
from django_otp.oath import TOTP

from accounts.tenancy import TenantManager
from controlplane.keyring import open_sealed

#: RFC 6238, 5.2: one time step of 30 s for the delay and the clocks.
TOLERANCE_STEPS: Final = 1
CODE_DIGITS: Final = 6


class SignInMethod(models.TextChoices):
    """How the person proved who they are."""

    PASSWORD = "password", "Password"  # the way, not the password
    TOTP = "totp", "Password and code"
    OIDC = "oidc", "OpenID Connect"
    SAML = "saml", "SAML 2.0"


class SignIn(models.Model):
    """One browser session of a person. Through a provider it is good in that provider's tenant alone.

    A local one (neither tenant nor provider) is good wherever the person has a role, and seen by nobody else.
    `name_id` and `session_index` are SAML's, for single logout.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("accounts.Tenant", on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    user = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="sign_ins")
    provider = models.ForeignKey(
        "accounts.IdentityProvider", on_delete=models.CASCADE, null=True, blank=True, related_name="sign_ins"
    )
    method = models.CharField(max_length=16, choices=SignInMethod.choices)
    address = models.GenericIPAddressField(null=True, blank=True)
    user_agent = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    name_id = models.CharField(max_length=500, blank=True, editable=False)
    session_index = models.CharField(max_length=500, blank=True, editable=False)

    objects: ClassVar[TenantManager[Self]] = TenantManager()

    class Meta:
        ordering = ("-started_at",)
        verbose_name = "sign-in"
        indexes = (models.Index(fields=("user", "-started_at")), models.Index(fields=("expires_at",)))

    def __str__(self) -> str:
        return f"{self.user} by {self.method}"


class TotpDevice(TimestampMixin, ThrottlingMixin, Device):  # type: ignore[misc]  # untyped
    """A person's authenticator app (RFC 6238). Its key is sealed, each code is good once, wrong ones slow it down."""

    user = models.OneToOneField("accounts.User", on_delete=models.CASCADE, related_name="totp_device")
    sealed_secret = models.TextField(editable=False)
    last_step = models.BigIntegerField(default=-1, editable=False)

    class Meta:
        verbose_name = "authenticator"

    throttle_factor: ClassVar[int] = 1

    def __str__(self) -> str:
        return f"authenticator of {self.user}"

    @staticmethod
    def context_for(user_id: uuid.UUID) -> str:
        """What the sealed key is bound to."""
        return f"accounts.totp:{user_id}"

    def get_throttle_factor(self) -> int:
        """Seconds: 1, 2, 4 … after each wrong code in a row."""
        return self.throttle_factor

    def verify_token(self, token: str) -> bool:
        """True for the code of now, once. The caller holds the row's lock."""
        return self._accept(token, sealed_key=self.sealed_secret, first_step=self.last_step + 1)

    def replace_key(self, sealed_key: str, token: str) -> bool:
        """True for a code of another key, which takes the place of the one before. The caller holds the row's lock."""
        is_good = self._accept(token, sealed_key=sealed_key, first_step=0)
        if is_good:
            self.sealed_secret, self.created_at = sealed_key, timezone.now()
            self.save(update_fields=("sealed_secret", "created_at"))
        return is_good

    def _accept(self, token: str, *, sealed_key: str, first_step: int) -> bool:
        if not self.verify_is_allowed()[0]:
            return False
        totp = TOTP(open_sealed(sealed_key, context=self.context_for(self.user_id)), digits=CODE_DIGITS)
        is_good = (
            len(token) == CODE_DIGITS
            and token.isascii()
            and token.isdigit()
            and totp.verify(int(token), tolerance=TOLERANCE_STEPS, min_t=first_step)
        )
        if is_good:
            self.last_step = totp.t()
            self.confirmed = True
            self.throttle_reset(commit=False)
            self.set_last_used_timestamp(commit=False)
            self.save()
        else:
            self.throttle_increment()
        return bool(is_good)
