"""The admin's sidebar: everything that is registered and that the person may see, in groups of the product's words."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst

from controlplane.authority import Power, authority_of
from controlplane.env import Mode

#: Group → (app label, model name, icon of Material Symbols).
GROUPS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "Sessions",
        (
            ("agent_sessions", "agentsession", "terminal"),
            ("agent_sessions", "operation", "list_alt"),
            ("agent_sessions", "sessionrefusal", "block"),
            ("agent_sessions", "killorder", "dangerous"),
        ),
    ),
    (
        "Access",
        (
            ("accounts", "agent", "smart_toy"),
            ("accounts", "agenttoken", "key"),
            ("accounts", "oidctrust", "handshake"),
            ("accounts", "oauthclient", "deployed_code"),
        ),
    ),
    (
        "Policies",
        (
            ("policies", "policy", "policy"),
            ("policies", "policydraft", "edit_note"),
            ("policies", "policyversion", "history"),
            ("policies", "simulation", "fast_rewind"),
            ("policies", "suggestion", "auto_awesome"),
            ("policies", "budget", "speed"),
        ),
    ),
    (
        "Approvals",
        (
            ("policies", "approvalrequest", "approval_delegation"),
            ("policies", "approvalgrant", "task_alt"),
            ("policies", "approvalflow", "account_tree"),
        ),
    ),
    (
        "Telling people",
        (
            ("policies", "notificationchannel", "notifications"),
            ("policies", "notification", "outgoing_mail"),
            ("policies", "chatidentity", "forum"),
        ),
    ),
    (
        "Targets",
        (
            ("targets", "target", "database"),
            ("targets", "credential", "lock"),
            ("targets", "columnlabel", "label"),
            ("targets", "proxyworker", "dns"),
            ("targets", "jointoken", "confirmation_number"),
        ),
    ),
    (
        "People",
        (
            ("accounts", "tenant", "apartment"),
            ("accounts", "user", "person"),
            ("accounts", "membership", "group"),
            ("accounts", "identityprovider", "badge"),
            ("accounts", "federatedidentity", "fingerprint"),
            ("accounts", "signin", "login"),
            ("accounts", "apitoken", "vpn_key"),
            ("accounts", "servicetoken", "robot_2"),
            ("accounts", "scimuser", "contact_page"),
            ("accounts", "scimgroup", "groups"),
        ),
    ),
    (
        "Audit",
        (
            ("ledger", "ledgerentry", "receipt_long"),
            ("ledger", "platformentry", "domain"),
            ("agent_sessions", "journalbatch", "inventory_2"),
            ("agent_sessions", "contentsegment", "description"),
        ),
    ),
)


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's navigation for this person."""
    pages = {(model._meta.app_label, model._meta.model_name): page for model, page in admin.site._registry.items()}
    first = [{"title": "Overview", "icon": "home", "link": reverse("admin:index")}]
    if authority_of(request).may(Power.AUDIT):
        first.append({"title": "Approvals", "icon": "approval", "link": reverse("approvals")})
    navigation: list[dict[str, Any]] = [{"title": "", "separator": False, "items": first}]
    for title, entries in GROUPS:
        items = [
            {
                "title": capfirst(pages[label, name].opts.verbose_name_plural),
                "icon": icon,
                "link": reverse(f"admin:{label}_{name}_changelist"),
            }
            for label, name, icon in entries
            if (label, name) in pages and pages[label, name].has_module_permission(request)
        ]
        if items:
            navigation.append({"title": title, "separator": True, "items": items})
    return navigation


def environment_badge(_request: HttpRequest) -> list[str] | None:
    """A badge that says that this is no production."""
    mode = settings.NARROWGATE.mode
    return None if mode is Mode.PRODUCTION else [str(mode), "warning"]
