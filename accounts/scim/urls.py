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
    path("scim/v2/Schemas", views.schemas),
    path("scim/v2/Schemas/<str:name>", views.schemas),
    path("scim/v2/ResourceTypes", views.resource_types),
    path("scim/v2/ResourceTypes/<str:name>", views.resource_types),
]
