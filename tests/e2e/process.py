"""What a process holds, by /proc."""

from __future__ import annotations

import re
from pathlib import Path

_KIB_IN_MIB = 1024


def resident_mib(pid: int) -> float:
    """Memory that it has now (VmRSS)."""
    return _mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that it had (VmHWM) since its start, or since `forget_peak`."""
    return _mib(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak be what it has now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """How many file descriptors it has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _mib(pid: int, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / _KIB_IN_MIB
