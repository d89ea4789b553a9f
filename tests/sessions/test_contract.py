"""Words that two sides use and that can't import each other."""

from __future__ import annotations

from proxyworker.contract import OutcomeStatus, TlsMode
from sessions.index import RUNNING
from sessions.models import OperationStatus
from targets.models import TlsCheck


def test_the_ways_to_check_a_certificate_are_the_contracts() -> None:
    assert set(TlsCheck.values) == {mode.value for mode in TlsMode}


def test_an_operations_status_is_an_outcome_or_running() -> None:
    assert set(OperationStatus.values) == {status.value for status in OutcomeStatus} | {RUNNING}
