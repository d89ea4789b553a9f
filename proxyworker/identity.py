"""Who this worker is: an Ed25519 key that it made itself, and the id that the control plane gave it for it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from proxyworker.contract import LINK_VERSION, Authenticate, Challenge, Enrol, Secret, signed_hello
from proxyworker.disk import write_whole
from proxyworker.errors import IdentityError

_KEY_FILE: Final = "identity.key"
_ID_FILE: Final = "worker-id"
#: A join token is a line of some 60 characters.
MAX_JOIN_TOKEN_BYTES: Final = 1024


class Identity:
    """Signs challenges. The key never leaves its file and this object.

    The processes of a worker share it; number 0 enrols, and the others wait until it has.
    """

    def __init__(
        self, folder: Path, *, name: str, join_token_file: Path | None, process: int = 0, processes: int = 1
    ) -> None:
        """Read the key, or make one. Raises `IdentityError`."""
        self.name = name
        self._process = process
        self._processes = processes
        self._join_token_file = join_token_file
        self._id_file = folder / _ID_FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = _read_or_make_key(folder / _KEY_FILE)
        self._public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.worker_id = _read_id(self._id_file)

    def answer(self, challenge: Challenge) -> Enrol | Authenticate:
        """Show who this is. Raises `IdentityError` if it was never enrolled and has no join token."""
        process, processes = self._process, self._processes
        signature = self._key.sign(
            signed_hello(challenge.nonce, self._public_key, process=process, processes=processes)
        )
        if not self.worker_id and process:
            self.worker_id = _read_id(self._id_file)
        if self.worker_id:
            return Authenticate(LINK_VERSION, self.worker_id, signature, process=process, processes=processes)
        if process:
            raise IdentityError("this worker isn't enrolled yet, which its process 0 has to do")
        return Enrol(
            link_version=LINK_VERSION,
            join_token=self._read_join_token(),
            name=self.name,
            public_key=self._public_key,
            signature=signature,
            process=process,
            processes=processes,
        )

    def enrolled(self, worker_id: str) -> None:
        """The control plane knows the key under this id. Raises `OSError`."""
        if worker_id != self.worker_id:
            write_whole(self._id_file, f"{worker_id}\n".encode())
            self.worker_id = worker_id

    def _read_join_token(self) -> Secret:
        """Read anew each time: a fresh token may have been put there."""
        if self._join_token_file is None:
            raise IdentityError(
                "this worker isn't enrolled: set NARROWGATE_JOIN_TOKEN_FILE to a file with a join token"
            )
        try:
            with self._join_token_file.open("rb") as file:
                token = file.read(MAX_JOIN_TOKEN_BYTES).strip()
        except OSError as error:
            raise IdentityError(f"NARROWGATE_JOIN_TOKEN_FILE: {self._join_token_file}: {error.strerror}") from error
        if not token or not token.isascii():
            raise IdentityError(f"NARROWGATE_JOIN_TOKEN_FILE: {self._join_token_file}: holds no join token")
        return Secret(token.decode("ascii"))


def _read_or_make_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        return _make_key(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"{path}: others can read the worker's key. Make it mode 0600, or remove it and enrol anew")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path}: no private key. Remove it and enrol anew") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path}: no Ed25519 key. Remove it and enrol anew")
    return key


def _make_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_whole(path, pem)
    return key


def _read_id(path: Path) -> str:
    if not path.exists():
        return ""
    text = path.read_text().strip()
    try:
        return str(UUID(text))
    except ValueError as error:
        raise IdentityError(f"{path}: no worker id. Remove it and enrol anew") from error
