"""Where everything is: the admin, REST with its OpenAPI page, a page for agents, probes, and what the apps serve."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.permissions import AllowAny
from rest_framework.routers import SimpleRouter

from controlplane import for_agents, health
from controlplane.discovery import modules_named

router = SimpleRouter()
for module in modules_named("api"):
    for prefix, viewset in module.ROUTES:
        router.register(prefix, viewset, basename=prefix.rstrip("s"))

#: The document describes and shows no row: whoever writes a client may read it without signing in.
_open = {"permission_classes": [AllowAny], "authentication_classes": []}

v1 = [
    path("schema/", SpectacularAPIView.as_view(**_open), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="v1:schema", **_open), name="docs"),
    *router.urls,
]

handler404 = "controlplane.problems.not_found"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    *(path("", include(urls)) for urls in modules_named("urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include((v1, "v1"))),
    path("llms.txt", for_agents.llms_txt),
    path("healthz", health.alive),
    path("readyz", health.ready),
]
