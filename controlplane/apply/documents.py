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


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML lets pass: a key twice, and aliases, which can blow a small file up."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not used here", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice or is no text", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


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
        loaded = [document for document in yaml.load_all(data, Loader=_StrictLoader) if document is not None]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} is no YAML that can be used: {_yaml_problem(error)}") from None
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


def _yaml_problem(error: Exception) -> str:
    """What and where, without quoting the file: it may hold what should not be shown."""
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{getattr(error, 'problem', None) or 'it holds what is no UTF-8 text'}{place}"
