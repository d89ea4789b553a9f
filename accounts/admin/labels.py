"""Colours of states in lists."""

from __future__ import annotations

from typing import Final

#: State → colour of its label.
ACTIVE_LABELS: Final = {"active": "success", "inactive": "danger"}
SIGN_IN_LABELS: Final = {"live": "success", "ended": "warning"}
TOKEN_LABELS: Final = {"active": "success", "expired": "warning", "revoked": "danger"}
