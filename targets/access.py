"""How other code obtains targets and workers. Within the active scope, where nothing else is said."""

from __future__ import annotations

from uuid import UUID

from controlplane.keyring import open_sealed
from controlplane.tenancy import every_tenant
from targets.models import Credential, ProxyWorker, Target


def find_active_target(*, tenant_id: UUID, name: str, protocol: str) -> Target | None:
    """The target of that name that agents can reach, with its credential."""
    targets = Target.objects.filter(tenant_id=tenant_id, name=name, protocol=protocol, is_active=True)
    found: Target | None = targets.select_related("credential").first()
    return found


def open_secret(credential: Credential) -> str:
    """The credential's secret, for a grant and for nothing else. Raises `KeyringError`."""
    return open_sealed(credential.sealed_secret, context=credential.sealing_context).decode()


def find_worker(worker_id: UUID) -> ProxyWorker | None:
    """The worker, in whatever tenant: it proves itself by its key. With its tenant."""
    with every_tenant():
        found: ProxyWorker | None = ProxyWorker.objects.select_related("tenant").filter(pk=worker_id).first()
    return found
