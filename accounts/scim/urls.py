"""Where the endpoints are."""

from __future__ import annotations

from django.urls import path

from accounts.scim import views

urlpatterns = [
    path("scim/v2/Users", views.users),
    path("scim/v2/Users/<uuid:pk>", views.user),
    path("scim/v2/Groups", views.groups),
    path("scim/v2/Groups/<uuid:pk>", views.group),
    path("scim/v2/ServiceProviderConfig", views.config),
]
