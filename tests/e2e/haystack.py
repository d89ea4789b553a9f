"""Secrets, in whichever form they might turn up, and all the places of a demo in which they must not."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import psycopg
import zstandard

from controlplane.supervisor.embedded import postgres_tool
from controlplane.supervisor.layout import PROJECT, Layout, read_layout
from controlplane.supervisor.layout import ROLE as CONTROL_ROLE
from controlplane.supervisor.plan import control_postgres
from proxyworker.journal.content import read_segment
from proxyworker.journal.frames import CONTENT, HEADER_BYTES, Codec, read_content, read_frame
from sessions.ingest import unpack_batch
from tests.e2e.demo import processes_of, read_process
from tests.e2e.rest import everything_rest_says, everything_the_admin_shows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.demo import Demo

#: Who may hold a secret, and why. All of them have mode 0600, in folders of mode 0700.
HOLDERS: Final = {
    "demo.json": "it tells scripts the tokens of this demo",
    "agent-token": "it gives a person's program the agent's token",
    "agent.pgpass": "it gives psql the agents' tokens",
    "api-header": "it gives curl the token for REST",
    "secrets/join-token": "the worker enrols with it",
}
#: The target's own cluster knows its own password (as a SCRAM verifier) and is nobody's record.
NOT_SEARCHED: Final = "target"

_TELLS_THE_TARGET_S_PASSWORD: Final = """
import django
django.setup()
from django_scopes import scopes_disabled
from targets.access import open_secret
from targets.models import Credential
with scopes_disabled():
    print(open_secret(Credential.objects.get()), end="")
"""


class Needles:
    """Secrets by name. Each is looked for as it is, in hex, and in base64 at all three alignments."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._forms = {name: _forms(secret.encode()) for name, secret in secrets.items()}

    def found_in(self, data: bytes) -> list[str]:
        """The names of the secrets that the data holds."""
        return [name for name, forms in self._forms.items() if any(form in data for form in forms)]


def _forms(secret: bytes) -> set[bytes]:
    forms = {secret, secret.hex().encode()}
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + secret)
        # Without the characters that its neighbours have a part in.
        inner = whole[4:-4] if shift else whole[:-4]
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def layout_of(demo: Demo) -> Layout:
    """Where things are in this demo."""
    return read_layout({"NARROWGATE_HOME": str(demo.home), "NARROWGATE_PORT_BASE": str(demo.told["port_base"])})


def target_password(demo: Demo) -> str:
    """What the control plane signs on to the target with."""
    environment = os.environ | layout_of(demo).control_plane_environment()
    done = subprocess.run(
        [sys.executable, "-c", _TELLS_THE_TARGET_S_PASSWORD],
        cwd=PROJECT,
        env=environment | {"DJANGO_SETTINGS_MODULE": "controlplane.settings"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def everywhere(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """All places, by name, with what is there."""
    yield from files(demo)
    yield from content(demo.home)
    yield from journals(demo.home)
    yield from database(demo)
    yield from processes(demo.home)
    yield from everything_rest_says(demo)
    yield from everything_the_admin_shows(demo)


def files(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """Each file of the home, as it is, but for `HOLDERS`; and what was said on the terminal."""
    for file in (*demo.home.rglob("*"), demo.home.with_name(f"{demo.home.name}.out")):
        name = str(file.relative_to(demo.home.parent)).removeprefix(f"{demo.home.name}/")
        if name in HOLDERS or name.split("/")[0] == NOT_SEARCHED:
            continue
        with suppress(FileNotFoundError):  # journals and spooled content go while we look
            if file.is_file():
                yield name, file.read_bytes()


def holders(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """`HOLDERS`, each of which must be closed to others."""
    for name in HOLDERS:
        file = demo.home / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, name
        yield name, file.read_bytes()


def content(home: Path) -> Iterator[tuple[str, bytes]]:
    """What agents sent and were shown, decompressed, whether it has been uploaded or waits for that."""
    for file in (*(home / "storage").rglob("*"), *(home / "worker" / "spool").glob("*.ngs")):
        if file.is_file():
            yield f"content {file.name}", b"".join(piece.data for piece in read_segment(file.read_bytes()))


def journals(home: Path) -> Iterator[tuple[str, bytes]]:
    """The worker's journal: records and content, decompressed."""
    for file in (home / "worker" / "journal").glob("*.ngj"):
        data, at = memoryview(file.read_bytes()), HEADER_BYTES
        parts: list[bytes] = []
        while (frame := read_frame(data, at)) is not None:
            if frame.type == CONTENT:
                piece = read_content(data, frame)
                parts.append(zstandard.decompress(piece.data) if piece.codec is Codec.ZSTD else piece.data)
            else:
                parts.append(bytes(data[frame.start : frame.end]))
            at = frame.end
        yield f"journal {file.name}", b"".join(parts)


def database(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """The control plane's database as a dump, and the records in its batches."""
    command = [str(postgres_tool("pg_dump")), _control_dsn(demo)]
    dump = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert b"support-agent" in dump
    yield "the control plane's database", dump
    for payload in batches(demo):
        yield "a batch of records in the database", b"".join(unpack_batch(payload))


def _control_dsn(demo: Demo) -> str:
    """As the superuser, whom no row-level security keeps from any row."""
    return control_postgres(layout_of(demo)).superuser_dsn(CONTROL_ROLE)


def batches(demo: Demo) -> list[bytes]:
    """The payload of each batch that the control plane holds, in order."""
    with psycopg.connect(_control_dsn(demo)) as connection:
        found = connection.execute(
            "SELECT payload FROM agent_sessions_journalbatch ORDER BY journal_id, first_seq"
        ).fetchall()
    return [payload for (payload,) in found]


def processes(home: Path) -> Iterator[tuple[str, bytes]]:
    """Command line and environment of each process of the stack."""
    for pid, command in processes_of(home).items():
        for name in ("cmdline", "environ"):
            yield f"{name} of {command}", read_process(pid, name)
