"""`python -m tests.bench [--seconds N] [--rounds N]`: pgbench and bulk reads, each peer in turn, medians and ratios."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controlplane.supervisor.embedded import postgres_tool
from tests.bench.peers import Peer, peers

#: 100,000 accounts each.
SCALE = 10
#: Longer than any one measurement; a hang ends the run.
COMMAND_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """A measurement: `run` gives a figure, of which more is better or less is."""

    name: str
    unit: str
    is_rate: bool
    run: Callable[[Peer], float]


def _run(peer: Peer, tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(postgres_tool(tool)), *arguments],
        env={**os.environ, **peer.environment},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{peer.name}: {tool} {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def _pgbench(clients: int, mode: str, seconds: int) -> Callable[[Peer], float]:
    def run(peer: Peer) -> float:
        said = _run(peer, "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-T", str(seconds))
        found = re.search(r"tps = ([\d.]+)", said)
        assert found is not None
        return float(found[1])

    return run


def _psql(command: str) -> Callable[[Peer], float]:
    def run(peer: Peer) -> float:
        started = time.perf_counter()
        _run(peer, "psql", "-XqAt", "-o", os.devnull, "-c", command)
        return time.perf_counter() - started

    return run


def cases(seconds: int) -> list[Case]:
    """What `make bench` measures."""
    return [
        *(
            Case(f"pgbench -S -M {mode} -c {clients}", "tps", is_rate=True, run=_pgbench(clients, mode, seconds))
            for mode in ("simple", "prepared")
            for clients in (1, 8)
        ),
        Case("SELECT of 1,000,000 rows", "s", is_rate=False, run=_psql("SELECT * FROM pgbench_accounts")),
        Case("COPY of 1,000,000 rows to the client", "s", is_rate=False, run=_psql("COPY pgbench_accounts TO STDOUT")),
    ]


def measure(case: Case, ways: list[Peer], rounds: int) -> None:
    """Each peer in turn, `rounds` times, after one that is not counted; print medians, ranges and ratios."""
    figures: dict[str, list[float]] = {peer.name: [] for peer in ways}
    costs: dict[str, list[float]] = {peer.name: [] for peer in ways}
    for number in range(rounds + 1):
        for peer in ways:
            before = peer.processor_seconds
            started = time.perf_counter()
            figure = case.run(peer)
            used, lasted = peer.processor_seconds - before, time.perf_counter() - started
            if number:
                figures[peer.name].append(figure)
                costs[peer.name].append(used / (figure * lasted) * 1e6 if case.is_rate else used)
    direct = statistics.median(figures["direct"])
    print(f"\n{case.name}")
    for peer in ways:
        median = statistics.median(figures[peer.name])
        ratio = median / direct if case.is_rate else direct / median
        print(
            f"  {peer.name:<10} {median:>12,.2f} {case.unit:<4} ({min(figures[peer.name]):,.2f} to"
            f" {max(figures[peer.name]):,.2f})   {ratio:.2f} of direct"
            + (
                f"   {statistics.median(costs[peer.name]):.2f} {'µs' if case.is_rate else 's'} of processor time"
                f"{' a statement' if case.is_rate else ''}, peak {peer.peak_bytes / 2**20:.0f} MiB"
                if peer.peak_bytes
                else ""
            )
        )


def main() -> None:
    """Measure everything."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    arguments.add_argument("--seconds", type=int, default=5, help="of each pgbench run (5)")
    arguments.add_argument("--rounds", type=int, default=5, help="counted runs of each peer and case (5)")
    arguments.add_argument("--processes", type=int, default=1, help="of the gate (1)")
    options = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="narrowgate-bench-") as name,
        peers(Path(name), processes=options.processes) as ways,
    ):
        _run(ways[0], "pgbench", "-i", "-q", "-s", str(SCALE))
        print(f"{os.cpu_count()} processors; TLS on every leg; the gate records durably; ratios are of throughput")
        for case in cases(options.seconds):
            measure(case, ways, options.rounds)


if __name__ == "__main__":
    main()
