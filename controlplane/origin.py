"""Where a change comes from: by which way in, and from which address. The ledger writes it beside each entry.

Web's outermost middleware says it of a request, `SocketOrigin` of a WebSocket, manage.py of its command; what nobody
said anything of is the system's. An address is what a trusted proxy says it is, and a client's own word never.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware


class Channel(StrEnum):
    """A way in. WEB is any page that has no channel of its own."""

    ADMIN = "admin"
    REST = "rest"
    SCIM = "scim"
    OAUTH = "oauth"
    SIGN_IN = "sign-in"
    LINK = "link"
    WEB = "web"
    CLI = "cli"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Origin:
    """The channel, and the client's address where it has one. `machine`: who acts where that is no person."""

    channel: Channel
    address: str = ""
    machine: str = ""


#: What runs by the clock, or was started by nobody in particular.
SYSTEM_ORIGIN: Final = Origin(Channel.SYSTEM)
#: The first that a path begins with.
_CHANNELS: Final = (
    ("/admin/login/", Channel.SIGN_IN),
    ("/admin/logout/", Channel.SIGN_IN),
    ("/sign-in/", Channel.SIGN_IN),
    ("/admin/", Channel.ADMIN),
    ("/api/", Channel.REST),
    ("/scim/", Channel.SCIM),
    ("/oauth/", Channel.OAUTH),
    ("/link/", Channel.LINK),
)
_FORWARDED_FOR: Final = b"x-forwarded-for"
_origin: ContextVar[Origin] = ContextVar("narrowgate_origin", default=SYSTEM_ORIGIN)


def current_origin() -> Origin:
    """Where what happens now comes from."""
    return _origin.get()


@contextmanager
def acting_as(machine: str) -> Iterator[None]:
    """What is done within, and by no person, is done by this: a directory by its token."""
    with originating(replace(current_origin(), machine=machine)):
        yield


@contextmanager
def originating(origin: Origin) -> Iterator[None]:
    """What is done within comes from there."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def client_address(peer: str, forwarded_for: str, *, trusted_proxies: int) -> str:
    """The client's address: the peer's, or with proxies of ours in front, what the outermost of them saw.

    Each proxy appends the address that it was reached from to X-Forwarded-For (`forwarded_for`), so the last
    `trusted_proxies` of it are ours, and all before them is the client's invention. Whatever is no address is not
    taken for one: then the answer is the peer's, and empty when that is none either.
    """
    said = [part.strip() for part in forwarded_for.split(",") if part.strip()]
    ours = said[-trusted_proxies:] if trusted_proxies else []
    return _plain_address(ours[0]) or _plain_address(peer) if ours else _plain_address(peer)


@sync_and_async_middleware
def origin_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """The outermost. From here on REMOTE_ADDR is the client's address, for rate limits, locks and logs alike."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> Any:
            with originating(_origin_of(request)):
                return await get_response(request)

        return answer_async

    def answer(request: HttpRequest) -> Any:
        with originating(_origin_of(request)):
            return get_response(request)

    return answer


class SocketOrigin:
    """ASGI: what comes over a WebSocket comes from the client's address, which is what `scope["client"]` then says."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Take the connection."""
        peer, port = scope.get("client") or ("", 0)
        forwarded_for = b",".join(value for name, value in scope["headers"] if name == _FORWARDED_FOR)
        address = _trusted_address(peer, forwarded_for.decode("latin-1"))
        with originating(Origin(_channel_of(scope["path"]), address)):
            await self._application({**scope, "client": (address, port)}, receive, send)


def _origin_of(request: HttpRequest) -> Origin:
    address = _trusted_address(request.META.get("REMOTE_ADDR") or "", request.headers.get("X-Forwarded-For", ""))
    request.META["REMOTE_ADDR"] = address
    return Origin(_channel_of(request.path_info), address)


def _channel_of(path: str) -> Channel:
    return next((channel for start, channel in _CHANNELS if path.startswith(start)), Channel.WEB)


def _trusted_address(peer: str, forwarded_for: str) -> str:
    return client_address(peer, forwarded_for, trusted_proxies=settings.NARROWGATE.trusted_proxies)


def _plain_address(text: str) -> str:
    """In one form only, whoever wrote it: IPv4 within IPv6 as IPv4, and without a zone. Empty for no address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str((address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address)
