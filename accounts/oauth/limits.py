"""How often an address may ask the token endpoints. Counted in the cache, which all web processes share."""

from __future__ import annotations

import hashlib
import time
from typing import Final

from django.core.cache import cache
from django.http import HttpRequest

#: A fleet behind one address renews its tokens every few minutes; a guesser wants far more.
REQUESTS_PER_MINUTE: Final = 1_200
WINDOW_SECONDS: Final = 60


def seconds_to_wait(request: HttpRequest, name: str) -> int:
    """0, or how long this address has to wait. A cache that is down raises: nobody guesses uncounted."""
    return seconds_to_wait_of(str(request.META.get("REMOTE_ADDR", "")), name)


def seconds_to_wait_of(address: str, name: str) -> int:
    """As `seconds_to_wait`, for one who asks otherwise than by HTTP."""
    now = int(time.time())
    digest = hashlib.sha256(address.encode()).hexdigest()[:32]
    key = f"oauth-rate:{name}:{digest}:{now // WINDOW_SECONDS}"
    return WINDOW_SECONDS - now % WINDOW_SECONDS if _count(key) > REQUESTS_PER_MINUTE else 0


def _count(key: str) -> int:
    """How many there are now in the key's window. Nearly always, it has begun."""
    try:
        return int(cache.incr(key))
    except ValueError:
        return 1 if cache.add(key, 1, timeout=2 * WINDOW_SECONDS) else int(cache.incr(key))
