"""How times read in a session's timeline."""

from __future__ import annotations

from datetime import datetime

from django import template

from sessions.models import AgentSession

register = template.Library()


@register.filter
def duration(microseconds: int) -> str:
    """In the unit in which it has few digits."""
    if microseconds < 1_000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.1f} ms"
    if microseconds < 120_000_000:
        return f"{microseconds / 1_000_000:.2f} s"
    minutes, seconds = divmod(microseconds // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


@register.filter
def words(name: str) -> str:
    """A name of ours, such as "issued_token", as words."""
    return name.replace("_", " ")


@register.filter
def grouped(number: int) -> str:
    """With its thousands set apart."""
    return f"{number:,}"


@register.filter
def since_start(at: datetime, session: AgentSession) -> str:
    """How far into the session."""
    seconds = (at - (session.opened_at or session.granted_at)).total_seconds()
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"+{int(minutes):d}:{rest:06.3f}"
