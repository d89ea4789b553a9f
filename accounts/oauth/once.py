"""Proofs that are good once: what was used is kept, as a digest, until it has expired."""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, transaction

from accounts.oauth.models import UsedAssertion


def take_once(proof: str, *, tenant_id: UUID, expires_at: datetime) -> bool:
    """Take this proof in the tenant; False when it was taken before. `proof` names it among all that there are."""
    digest = hashlib.sha256(proof.encode()).hexdigest()
    try:
        with transaction.atomic():
            UsedAssertion.objects.create(tenant_id=tenant_id, digest=digest, expires_at=expires_at)
    except IntegrityError:
        return False
    return True
