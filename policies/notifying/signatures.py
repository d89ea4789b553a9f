"""Signatures of callbacks, and ours. Pure: what is signed, with which key, at what time.

Slack      docs.slack.dev, "Verifying requests from Slack": X-Slack-Signature, X-Slack-Request-Timestamp
Teams      learn.microsoft.com, "Create outgoing webhooks": Authorization: HMAC <base64 of HMAC-SHA256>
ours       the Standard Webhooks specification: webhook-id, webhook-timestamp, webhook-signature
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from typing import Final

from slack_sdk.signature import Clock, SignatureVerifier

from policies.notifying.errors import BadCallback

#: Slack's own advice, and the specification's: what is older may be a replay.
MAX_AGE_SECONDS: Final = 300
MAX_TIMESTAMP_DIGITS: Final = 12
WEBHOOK_KEY_PREFIX: Final = "whsec_"


class _FixedClock(Clock):
    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


def check_slack(body: bytes, *, signature: str, timestamp: str, signing_secret: str, now: float) -> None:
    """Raises `BadCallback`."""
    verifier = SignatureVerifier(signing_secret, clock=_FixedClock(now))
    if not (
        timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= MAX_TIMESTAMP_DIGITS and signature.isascii()
    ):
        raise BadCallback("no signature of Slack's form")
    try:
        is_genuine = verifier.is_valid(body=body, timestamp=timestamp, signature=signature)
    except UnicodeDecodeError:
        is_genuine = False
    if not is_genuine:
        raise BadCallback("not signed by Slack, or too old")


def check_teams(body: bytes, *, authorization: str, security_token: str) -> str:
    """Whether the body was signed with the outgoing webhook's token. Returns the signature in the one form that it has,
    however it was written. Raises `BadCallback`.
    """
    scheme, _, shown = authorization.partition(" ")
    try:
        key = base64.b64decode(security_token, validate=True)
        told = base64.b64decode(shown.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BadCallback("no signature of Teams' form") from None
    if scheme != "HMAC" or not hmac.compare_digest(told, hmac.new(key, body, hashlib.sha256).digest()):
        raise BadCallback("not signed by Teams")
    return told.hex()


def check_age(timestamp: str, *, now: float) -> None:
    """Whether an ISO 8601 time is of the last minutes. Raises `BadCallback`."""
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        raise BadCallback("no time") from None
    if at.tzinfo is None or abs(now - at.timestamp()) > MAX_AGE_SECONDS:
        raise BadCallback("too old, or of another time")


def webhook_headers(body: bytes, *, delivery_id: str, now: float, secret: str) -> dict[str, str]:
    """The headers that sign a webhook. `secret` is `whsec_` and base64."""
    key = base64.b64decode(secret.removeprefix(WEBHOOK_KEY_PREFIX))
    signed = b".".join((delivery_id.encode(), str(int(now)).encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": delivery_id, "webhook-timestamp": str(int(now)), "webhook-signature": f"v1,{signature}"}
