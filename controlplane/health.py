"""Is it alive, and is it ready? For probes: no sign-in, and nothing told but names of parts."""

from __future__ import annotations

import structlog
from django.core.cache import cache
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


@never_cache
def alive(_request: HttpRequest) -> JsonResponse:
    """200 while the process answers."""
    return JsonResponse({"status": "ok"})


@never_cache
def ready(_request: HttpRequest) -> JsonResponse:
    """200 when database and Redis answer, else 503."""
    parts = {"database": _is_database_up(), "redis": _is_redis_up()}
    is_ready = all(parts.values())
    body = {
        "status": "ok" if is_ready else "unavailable",
        **{name: "ok" if up else "down" for name, up in parts.items()},
    }
    return JsonResponse(body, status=200 if is_ready else 503)


def _is_database_up() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        log.warning("database_down", error=type(error).__name__)
        return False
    return True


def _is_redis_up() -> bool:
    try:
        cache.get("ready")
    except (RedisError, OSError) as error:
        log.warning("redis_down", error=type(error).__name__)
        return False
    return True
