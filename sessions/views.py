"""The upload of content segments. Its URL is the permission: see `uploads`."""

from __future__ import annotations

import structlog
from django.core.signing import BadSignature
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from sessions.errors import SegmentMismatch
from sessions.uploads import keep_segment, read_ticket

log = structlog.get_logger(__name__)


@csrf_exempt
@require_http_methods(["PUT"])
def put_segment(request: HttpRequest, signed: str) -> HttpResponse:
    """201 when it is kept, 404 for what is no valid ticket, 422 when the bytes aren't the ticket's."""
    try:
        ticket = read_ticket(signed)
    except BadSignature:
        return HttpResponse(status=404)
    try:
        keep_segment(ticket, request.read)
    except SegmentMismatch:
        log.warning("segment_mismatch", session=ticket.session_id, index=ticket.index)
        return HttpResponse(status=422)
    return HttpResponse(status=201)
