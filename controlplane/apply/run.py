"""Applies a file in one transaction and tells what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django_scopes import scope

from accounts.models import Tenant
from controlplane.apply.documents import Parsed, located, read_documents
from controlplane.apply.kinds import Applying, Change, Document, DocumentError, TenantDocument, find_kinds
from controlplane.errors import Refusal
from controlplane.tenancy import every_tenant


def apply_file(path: Path, *, environ: Mapping[str, str], dry_run: bool, tell: Callable[[str], object]) -> int:
    """Apply all documents or none. Returns how many differ.

    Each change is told before anything is committed, then what is worth a warning: `! Policy support: …`.

    Raises `ManifestError`, which names the document, the field and the fix.
    """
    documents = read_documents(path, find_kinds())
    changes: list[tuple[Parsed, Change]] = []
    with transaction.atomic():
        for document in documents:
            change = _apply(document, folder=path.parent, environ=environ)
            if change is not None:
                changes.append((document, change))
                for line in diff_lines(document.kind.name, change):
                    tell(line)
        for document, change in changes:
            with _in_tenant(document.wanted):
                for warning in change.warnings():
                    tell(f"! {document.kind.name} {change.name}: {warning}")
        if dry_run:
            transaction.set_rollback(True)
    return len(changes)


def diff_lines(kind: str, change: Change) -> Iterator[str]:
    """The change as a diff: `+ Agent reporter`, then a line for each field."""
    mark = "+" if change.verb == "create" else "~"
    yield f"{mark} {kind} {change.name}"
    for field, (before, after) in change.fields.items():
        if change.verb == "create":
            yield f"    {field}: {_shown(after)}"
        else:
            yield f"    {field}: {_shown(before)} → {_shown(after)}"


def _apply(document: Parsed, *, folder: Path, environ: Mapping[str, str]) -> Change | None:
    try:
        with _in_tenant(document.wanted) as tenant:
            applying = Applying(folder=folder, environ=environ, tenant=tenant)
            return document.kind.apply(document.wanted, applying=applying)
    except DocumentError as error:
        raise located(document.index, document.kind.name, error) from None
    except Refusal as error:
        refused = DocumentError(error.field, error.problem, error.fix)
        raise located(document.index, document.kind.name, refused) from None
    except ValidationError as error:
        raise located(document.index, document.kind.name, _from_validation(error)) from None


@contextmanager
def _in_tenant(wanted: Document) -> Iterator[Tenant | None]:
    if not isinstance(wanted, TenantDocument):
        with every_tenant():
            yield None
        return
    tenant = Tenant.objects.filter(slug=wanted.tenant).first()
    if tenant is None:
        fix = "Name a tenant that exists, or add a document of kind Tenant"
        raise DocumentError("tenant", f"there is no tenant {wanted.tenant!r}", fix)
    with scope(tenant=tenant):
        yield tenant


def _from_validation(error: ValidationError) -> DocumentError:
    by_field = error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
    field, messages = next(iter(by_field.items()))
    return DocumentError("" if field == NON_FIELD_ERRORS else field, "is refused", " ".join(messages))


def _shown(value: Any) -> str:
    return "(unset)" if value in (None, "", [], {}) else str(value)
