"""What an approval is bound to, as digests: any change gives another one, and no approval is found for it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policies.engine import Operation

#: The digests' domains; a changed form gets a new number.
_BINDING: Final = b"narrowgate approval binding v1\x00"
_PRINCIPAL: Final = b"narrowgate approval principal v1\x00"
_TEMPLATE: Final = b"narrowgate approval template v1\x00"


def binding_of(*, operation_sha256: bytes, principal_sha256: bytes, target_id: str, policy_version: str) -> bytes:
    """SHA-256 over these four. The first is the gate's digest of the whole text and each parameter."""
    return _digest(_BINDING, operation_sha256, principal_sha256, target_id.encode(), policy_version.encode())


def principal_digest(principal: Mapping[str, Any]) -> bytes:
    """SHA-256 over the principal as canonical JSON: sorted keys, no blanks, UTF-8."""
    canonical = json.dumps(principal, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _digest(_PRINCIPAL, canonical.encode("utf-8", "surrogatepass"))


def template_digest(operation: Operation) -> bytes | None:
    """What operations that differ in literals only share: template, accesses and hazards. None: it has no template."""
    if not operation.template:
        return None
    return _digest(_TEMPLATE, msgspec.msgpack.encode(operation))


def _digest(domain: bytes, *parts: bytes) -> bytes:
    """Each part after its length, so that no two lists of parts are the same bytes."""
    digest = hashlib.sha256(domain)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
