"""What people paste to try a trust's rules: a token, or claims as JSON. Nothing of it is kept, believed or logged."""

from __future__ import annotations

import json
from typing import Any, Final

from django.core.exceptions import ValidationError

from accounts import oidc
from accounts.errors import BadCredential

#: As for a token that an agent presents.
MAX_TRIED_CHARACTERS: Final = oidc.MAX_JWT_BYTES


def claims_to_try(text: str) -> dict[str, Any]:
    """The claims, read as an agent's are. Raises ValidationError, which quotes nothing."""
    text = text.strip()
    try:
        claims = oidc.read_token(text)[1] if oidc.is_jwt(text) and not text.startswith("{") else json.loads(text)
    except (BadCredential, ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise ValidationError({"token_or_claims": "This is neither a JWT that could be accepted nor a JSON object."})
    return claims
