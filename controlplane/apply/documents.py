"""Reads the documents of a file strictly: every field is known, and of its type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from controlplane.apply.kinds import Document, DocumentError, Kind
from controlplane.env import nearest
from controlplane.strict_yaml import StrictLoader, yaml_problem

#: A set-up of thousands of objects is some hundred kilobytes.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
MAX_DOCUMENTS: Final = 10_000

_WHERE = re.compile(r" - at `\$\.?(?P<path>.*)`$")


class ManifestError(Exception):
    """A file that can't be applied. The text names the document (counted from 1), the field and the fix."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that has the form of its kind; `index` counts from 1."""

    index: int
    kind: Kind
    wanted: Document


def read_documents(path: Path, kinds: Mapping[str, Kind]) -> list[Parsed]:
    """The documents in the order in which they are applied. Raises `ManifestError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{path} can't be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        loaded = [document for document in yaml.load_all(data, Loader=StrictLoader) if document is not None]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} is no YAML that can be used: {_told(error)}") from None
    if len(loaded) > MAX_DOCUMENTS:
        raise ManifestError(f"{path} has more than {MAX_DOCUMENTS} documents; split it")
    parsed = list(_parse_all(loaded, kinds))
    return sorted(parsed, key=lambda document: document.kind.rank)


def located(index: int, kind: str, error: DocumentError) -> ManifestError:
    """The error with its place."""
    return ManifestError(f"document {index} ({kind}): {error}")


def _parse_all(loaded: list[Any], kinds: Mapping[str, Kind]) -> Iterator[Parsed]:
    for index, fields in enumerate(loaded, start=1):
        if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
            raise ManifestError(f"document {index}: kind: is missing. Start it with one of {', '.join(kinds)}")
        name = fields.pop("kind")
        if name not in kinds:
            near = nearest(name, list(kinds))
            raise ManifestError(f"document {index}: kind: {name!r} is unknown. Use one of {', '.join(kinds)}{near}")
        try:
            wanted = msgspec.convert(fields, kinds[name].document)
        except msgspec.ValidationError as error:
            raise located(index, name, _document_error(error, kinds[name].document)) from None
        yield Parsed(index=index, kind=kinds[name], wanted=wanted)


def _document_error(error: msgspec.ValidationError, document: type[Document]) -> DocumentError:
    text = str(error)
    where = _WHERE.search(text)
    field = where["path"] if where else ""
    problem = text[: where.start()] if where else text
    fields = ", ".join(document.__struct_fields__)
    return DocumentError(field, problem, f"The fields of this kind are {fields}")


def _told(error: Exception) -> str:
    problem, place = yaml_problem(error)
    return f"{problem} ({place})" if place else problem
