"""Where the endpoints are."""

from __future__ import annotations

from django.urls import path

from accounts.oauth import views

urlpatterns = [
    path("oauth/token", views.token),
    path("oauth/revoke", views.revoke),
    path("oauth/introspect", views.introspect),
    path("oauth/<slug:slug>/token", views.token),
    path("oauth/<slug:slug>/revoke", views.revoke),
    path("oauth/<slug:slug>/introspect", views.introspect),
    path(".well-known/oauth-authorization-server", views.metadata),
    path(".well-known/oauth-authorization-server/oauth/<slug:slug>", views.metadata),
]
