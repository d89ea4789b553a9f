"""What a kind is, and the kinds that the apps register."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from django.db import models

from controlplane.discovery import modules_named
from controlplane.env import MAX_SECRET_FILE_BYTES

if TYPE_CHECKING:
    from accounts.models import Tenant

M = TypeVar("M", bound=models.Model)

#: Stands for a secret in a diff.
HIDDEN = "(changed)"


class DocumentError(Exception):
    """A document that can't be applied: the path of the `field`, the `problem`, the `fix`."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}. {fix}" if field else f"{problem}. {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a kind's form: the fields beside `kind`, strictly typed."""


class TenantDocument(Document, frozen=True, kw_only=True):
    """Base of the form of what belongs to a tenant, named by its slug."""

    tenant: str


class SecretSource(Document, frozen=True, kw_only=True):
    """Where a secret is: `{file: path}` (relative to the YAML file) or `{env: VARIABLE}`. Never in the document."""

    file: str = ""
    env: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What applying a document changes: each field with what it said before and what it says after.

    `warnings` says what is worth knowing of it beside all else: asked in the tenant's scope once the whole file is
    applied.
    """

    verb: str
    name: str
    fields: Mapping[str, tuple[Any, Any]]
    warnings: Callable[[], Iterable[str]] = tuple


@dataclass(frozen=True, slots=True)
class Applying:
    """What a kind needs while it applies a document. The ORM is scoped to `tenant`, which only Tenant and User lack."""

    folder: Path
    environ: Mapping[str, str]
    tenant: Tenant | None

    def secret(self, source: SecretSource, *, field: str) -> str:
        """The secret's text without a final line break. Raises `DocumentError`, which shows none of it."""
        if bool(source.file) == bool(source.env):
            raise DocumentError(field, "names not exactly one source", "Use either file or env")
        if source.env:
            value = self.environ.get(source.env, "")
            if not value:
                raise DocumentError(f"{field}.env", f"variable {source.env} is not set", "Export it before applying")
            return value
        try:
            with (self.folder / source.file).open("rb") as file:
                value = file.read(MAX_SECRET_FILE_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError):
            raise DocumentError(f"{field}.file", f"{source.file} is no readable text", "Name a readable file") from None
        value = value.removesuffix("\n").removesuffix("\r")
        if not value or len(value) > MAX_SECRET_FILE_BYTES:
            raise DocumentError(f"{field}.file", f"{source.file} is empty or too long", "Write the secret into it")
        return value


class Kind(Protocol):
    """One kind of document. Kinds of lower `rank` are applied first, whatever their order in the file."""

    @property
    def name(self) -> str:
        """As in `kind: Agent`."""

    @property
    def rank(self) -> int:
        """Tenant 0, User 10, Agent 20, OidcTrust 30, Target 40, Credential 50, JoinToken 60, then flows, Policy 70."""

    @property
    def document(self) -> type[Document]:
        """The form of the document."""

    def apply(self, wanted: Any, *, applying: Applying) -> Change | None:
        """Bring it about through the app's actions; None when it is so already. Raises `DocumentError`."""


def find_kinds() -> dict[str, Kind]:
    """The kinds of all installed apps, by name."""
    kinds: dict[str, Kind] = {}
    for manifest in modules_named("manifest"):
        for kind in manifest.KINDS:
            if kind.name in kinds:
                raise RuntimeError(f"two apps register kind {kind.name}")
            kinds[kind.name] = kind
    return kinds


def bring_about(
    row: M | None, new: Callable[[], M], *, values: Mapping[str, Any], save: Callable[[M], object]
) -> Change | None:
    """Give the row (or a new one) these values and save it by an action, when they differ."""
    verb = "create" if row is None else "change"
    row = new() if row is None else row
    fields: dict[str, tuple[Any, Any]] = {}
    for name, value in values.items():
        before = None if verb == "create" else getattr(row, name)
        if verb == "create" or before != value:
            fields[name] = (before, value)
            setattr(row, name, value)
    if not fields:
        return None
    save(row)
    return Change(verb=verb, name=str(row), fields=fields)
