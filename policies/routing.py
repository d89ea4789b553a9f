"""The WebSockets of this app."""

from django.urls import path

from policies.inbox.waking import InboxConsumer

websocket_urlpatterns = [path("approvals/live/", InboxConsumer.as_asgi())]
