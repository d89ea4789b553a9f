"""REST of tokens, whoever holds them: what is asked of a new one, what is told of one, and its text, once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final, TypeVar

from rest_framework import serializers, status
from rest_framework.response import Response

from accounts.models import HashedToken
from controlplane.api import TenantSlugField

#: What a request may say at all; the actions know the bounds that hold.
MAX_LIFETIME_SECONDS: Final = 366 * 24 * 3600
ONCE: Final = "It is shown in this answer and never again."

TokenT = TypeVar("TokenT", bound=HashedToken)


def lifetime_field(default: timedelta) -> serializers.IntegerField:
    """How long a new token shall be good for."""
    return serializers.IntegerField(min_value=60, max_value=MAX_LIFETIME_SECONDS, default=int(default.total_seconds()))


def label_field() -> serializers.CharField:
    """What it is for, in the asker's words. A function, because DRF's fields belong to one serializer."""
    return serializers.CharField(max_length=100, default="", allow_blank=True)


def lifetime_of(wanted: Mapping[str, Any]) -> timedelta:
    """As the request has it."""
    return timedelta(seconds=wanted["lifetime_seconds"])


class TokenSerializer(serializers.ModelSerializer[TokenT]):
    """A token, without the token itself. A subclass's Meta names its model and fields: `OF_EACH` and its own."""

    OF_EACH: ClassVar[tuple[str, ...]] = (
        "id", "tenant", "token_id", "label", "created_at", "expires_at", "revoked_at", "last_used_at"
    )  # fmt: skip

    tenant = TenantSlugField(read_only=True)


class NewTokenMixin(serializers.Serializer[Any]):
    """Of a token that was just made: the token itself."""

    token = serializers.CharField(read_only=True, help_text=f"The token itself. {ONCE}")


def shown_once(told: Mapping[str, Any], **secret: str | None) -> Response:
    """201 with what was made and its secret, which nobody may keep."""
    headers = {"Cache-Control": "no-store"}
    return Response({**told, **secret}, status=status.HTTP_201_CREATED, headers=headers)
