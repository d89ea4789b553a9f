"""How other code obtains targets and workers. Within the active scope, where nothing else is said."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from controlplane.keyring import open_sealed
from controlplane.tenancy import every_tenant
from targets.models import ColumnLabel, Credential, ProxyWorker, Target


def find_active_target(*, tenant_id: UUID, name: str, protocol: str) -> Target | None:
    """The target of that name that agents can reach, with its credential."""
    targets = Target.objects.filter(tenant_id=tenant_id, name=name, protocol=protocol, is_active=True)
    found: Target | None = targets.select_related("credential").first()
    return found


def labelled_columns(tenant_id: UUID, labels: Iterable[str]) -> dict[str, dict[tuple[str, str, str], tuple[str, ...]]]:
    """The columns that have one of these labels, with those: by the target's name and (schema, table, column)."""
    found: dict[str, dict[tuple[str, str, str], tuple[str, ...]]] = {}
    rows = ColumnLabel.objects.filter(tenant=tenant_id, label__in=list(labels)).order_by("label")
    for target, schema, table, column, label in rows.values_list("target__name", "schema", "table", "column", "label"):
        columns = found.setdefault(target, {})
        columns[schema, table, column] = (*columns.get((schema, table, column), ()), label)
    return found


def labels_of_targets(tenant_id: UUID) -> dict[str, frozenset[str]]:
    """The labels that columns of each target have, by its name."""
    found: dict[str, set[str]] = {}
    rows = ColumnLabel.objects.filter(tenant=tenant_id).order_by().values_list("target__name", "label").distinct()
    for target, label in rows:
        found.setdefault(target, set()).add(label)
    return {target: frozenset(labels) for target, labels in found.items()}


def open_secret(credential: Credential) -> str:
    """The credential's secret, for a grant and for nothing else. Raises `KeyringError`."""
    return open_sealed(credential.sealed_secret, context=credential.sealing_context).decode()


def find_worker(worker_id: UUID) -> ProxyWorker | None:
    """The worker, in whatever tenant: it proves itself by its key. With its tenant."""
    with every_tenant():
        found: ProxyWorker | None = ProxyWorker.objects.select_related("tenant").filter(pk=worker_id).first()
    return found
