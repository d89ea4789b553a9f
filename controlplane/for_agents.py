"""`/llms.txt`: docs/agents.md with this installation's address. How agents connect, what refusals mean; no secret."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

_PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "agents.md"
#: What the page writes for an installation's own address.
_EXAMPLE: Final = "https://gate.example.com"


@require_safe
def llms_txt(_request: HttpRequest) -> HttpResponse:
    """The page, as plain text for whoever asks."""
    return HttpResponse(_text(), content_type="text/plain; charset=utf-8")


@cache
def _text() -> str:
    return _PAGE.read_text(encoding="utf-8").replace(_EXAMPLE, settings.NARROWGATE.public_url)
