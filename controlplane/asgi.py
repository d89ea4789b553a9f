"""The web program: `daphne controlplane.asgi:application`. HTTP goes to Django, WebSockets to the link's consumer."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from controlplane.database.roles import refuse_owner  # noqa: E402  # settings can be read only now
from controlplane.intake import at_the_root, bound_bodies  # noqa: E402
from controlplane.origin import SocketOrigin  # noqa: E402
from policies import routing as policies  # noqa: E402  # models can be imported only now
from sessions import routing as sessions  # noqa: E402
from sessions.uploads import allowed_bytes  # noqa: E402

refuse_owner()
bound_bodies(allowed_bytes)
_sockets = [*policies.websocket_urlpatterns, *sessions.websocket_urlpatterns]
application = ProtocolTypeRouter(
    {"http": at_the_root(django_application), "websocket": SocketOrigin(at_the_root(URLRouter(_sockets)))}
)
