"""The gate of the benchmark, a process of its own: the real data path and journal, a scripted control plane.

Reads one JSON object from standard input, prints "port ca-file" once it listens, and ends with its standard input. With
"processes" above 1, so many share the port, each with its own journal, as those of one worker do. The control plane is
scripted because it runs elsewhere in production: here it would take the processors under measurement.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import structlog

from controlplane.supervisor.embedded import free_port
from proxyworker.contract import Secret, TargetEndpoint, TlsMode, UpstreamCredential
from proxyworker.processes import die_with
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane


def main() -> None:
    """Serve until standard input ends."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = json.loads(sys.stdin.readline())
    control = ScriptedControlPlane(
        endpoint=TargetEndpoint(
            id="00000000-0000-0000-0000-000000000003",
            name="shop",
            protocol="postgres",
            host=settings["host"],
            port=settings["port"],
            database=settings["database"],
            tls_mode=TlsMode.VERIFY_FULL,
            ca_pem=Path(settings["ca_file"]).read_text(),
        ),
        credential=UpstreamCredential(username=settings["user"], secret=Secret(settings["password"])),
    )
    gate = RunningGate(Path(settings["folder"]), control, remember=False, listen_port=free_port())
    for number in range(1, settings["processes"]):
        parent = os.getpid()
        if not os.fork():
            die_with(parent)
            gate.folder = gate.folder / f"process-{number}"
            gate.folder.mkdir()
            with gate:
                signal.pause()
    with gate:
        print(gate.port, gate.ca_file, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
