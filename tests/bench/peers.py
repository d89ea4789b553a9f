"""What is measured: the target directly, through pgbouncer, and through the gate. All over TLS, on every leg."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import trustme

from controlplane.supervisor.embedded import LOOPBACK, Certificate, Postgres, free_port, running, write_private
from tests.proxyworker.postgres.gate import TOKEN

ROLE = "bench"
DATABASE = "shop"
#: A peer that has not answered by then is not there.
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to the target. `process_id` is that of the process in between, 0 for none."""

    name: str
    environment: dict[str, str]
    process_id: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process in between has had resident; 0 for none."""
        if not self.process_id:
            return 0
        status = Path(f"/proc/{self.process_id}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    @property
    def processor_seconds(self) -> float:
        """Processor time of the process in between, and of its children, so far."""
        if not self.process_id:
            return 0.0
        return sum(map(_processor_seconds, (self.process_id, *_children(self.process_id))))


def _processor_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(process_id: int) -> list[int]:
    # Each thread has its own: the gate's loop, which starts the process that syncs, isn't in the first one.
    threads = Path(f"/proc/{process_id}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return [one for child in children for one in (child, *_children(child))]


@contextmanager
def peers(folder: Path, *, processes: int) -> Iterator[list[Peer]]:
    """A target cluster and the ways to it, of which the gate has so many processes.

    pgbouncer is left out, by name, where it is not installed.
    """
    authority = trustme.CA()
    issued = authority.issue_cert(LOOPBACK, "localhost")
    ca_file, certificate = folder / "ca.pem", Certificate(folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(ca_file))
    issued.cert_chain_pems[0].write_to_path(str(certificate.chain_file))
    write_private(certificate.key_file, issued.private_key_pem.bytes().decode())
    target = Postgres(
        name="target", folder=folder / "cluster", port=free_port(), certificate=certificate, durable=False
    )
    password = "bench-password"
    with running(target, log_file=folder / "target.log"):
        target.ensure_role(ROLE, password)
        target.ensure_database(DATABASE, owner=ROLE)
        direct = _environment(target.port, ROLE, password, ca_file)
        with (
            _gate(folder, target.port, password, ca_file, processes) as gate,
            _pgbouncer(folder, target.port, password, ca_file, certificate) as pgbouncer,
        ):
            yield [Peer("direct", direct), *pgbouncer, gate]


def _environment(port: int, user: str, password: str, ca_file: Path) -> dict[str, str]:
    return {
        "PGHOST": "localhost", "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password, "PGDATABASE": DATABASE,
        "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(ca_file),
    }  # fmt: skip


@contextmanager
def _gate(folder: Path, port: int, password: str, ca_file: Path, processes: int) -> Iterator[Peer]:
    (folder / "gate").mkdir()
    settings = {
        "host": LOOPBACK, "port": port, "database": DATABASE, "user": ROLE, "password": password,
        "ca_file": str(ca_file), "folder": str(folder / "gate"), "processes": processes,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.gate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        gate_port, gate_ca = process.stdout.readline().split()
        yield Peer("gate", _environment(int(gate_port), "agent", TOKEN, Path(gate_ca)), process.pid)
        process.stdin.close()
        process.wait(START_SECONDS)


@contextmanager
def _pgbouncer(folder: Path, port: int, password: str, ca_file: Path, certificate: Certificate) -> Iterator[list[Peer]]:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        print("pgbouncer: not installed, left out (Debian: apt-get install pgbouncer)")
        yield []
        return
    own_port = free_port()
    configuration = folder / "pgbouncer.ini"
    # A CA of loopback addresses: the name in the certificate is checked, as on the gate's leg.
    write_private(
        configuration,
        f"""[databases]
{DATABASE} = host=localhost port={port} user={ROLE} password={password}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = 200
default_pool_size = 100
client_tls_sslmode = require
client_tls_key_file = {certificate.key_file}
client_tls_cert_file = {certificate.chain_file}
server_tls_sslmode = verify-full
server_tls_ca_file = {ca_file}
logfile = {folder / "pgbouncer.log"}
""",
    )
    as_user = ["--user", "nobody"] if os.geteuid() == 0 else []
    if as_user:
        # pgbouncer refuses to run as root: it reads its files and then drops to this user.
        for path in (folder, configuration, certificate.key_file, certificate.chain_file, ca_file):
            shutil.chown(path, "nobody")
    with subprocess.Popen([program, "--quiet", *as_user, str(configuration)]) as process:
        peer = Peer("pgbouncer", _environment(own_port, ROLE, password, ca_file), process.pid)
        try:
            _await(peer)
            yield [peer]
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _await(peer: Peer) -> None:
    environment = peer.environment
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(
                host=environment["PGHOST"], port=environment["PGPORT"], user=environment["PGUSER"],
                password=environment["PGPASSWORD"], dbname=DATABASE, sslmode="verify-full",
                sslrootcert=environment["PGSSLROOTCERT"],
            ).close()  # fmt: skip
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
