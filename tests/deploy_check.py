"""`manage.py check --deploy` as production would run it: strict mode, every warning an error. For `make test`.

Nothing is connected to: the addresses only have to be ones that production accepts.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from controlplane.supervisor.embedded import write_private


def main() -> int:
    """The exit status of the check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_private(folder / "secret-key", secrets.token_urlsafe(64))
        write_private(folder / "keyring", f"check:{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        environment = {
            "PATH": os.environ["PATH"],
            "NARROWGATE_MODE": "production",
            "NARROWGATE_HOME": str(folder),
            "NARROWGATE_SECRET_KEY_FILE": str(folder / "secret-key"),
            "NARROWGATE_KEYRING_FILE": str(folder / "keyring"),
            "NARROWGATE_ALLOWED_HOSTS": "gate.example.com",
            "NARROWGATE_PUBLIC_URL": "https://gate.example.com",
            "DATABASE_URL": "postgres://narrowgate@db.example.com/narrowgate?sslmode=verify-full&sslrootcert=system",
            "REDIS_URL": "rediss://:password@redis.example.com:6380/0",
        }
        command = (sys.executable, "-W", "error", "manage.py", "check", "--deploy", "--fail-level", "WARNING")
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
