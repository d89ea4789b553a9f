"""The ledger's errors.

LedgerError
    LedgerIsReadOnly    somebody tried to change or delete an entry
    SecretInLedger      somebody tried to record what looks like a secret
"""

from __future__ import annotations


class LedgerError(Exception):
    """Base of the ledger's errors."""


class LedgerIsReadOnly(LedgerError):
    """An entry can't be changed or deleted, by anybody."""


class SecretInLedger(LedgerError):
    """An entry would have held a value under a `field` that is for secrets."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} must not be in the ledger: record that it changed, not what it is")
        self.field = field
