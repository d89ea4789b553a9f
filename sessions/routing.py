"""The WebSockets of this app."""

from django.urls import path

from sessions.link import LinkConsumer

websocket_urlpatterns = [path("link/v1/", LinkConsumer.as_asgi())]
