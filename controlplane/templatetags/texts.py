"""How texts of agents are shown."""

from __future__ import annotations

from django import template

from controlplane.visible import visible

register = template.Library()


@register.filter(name="visible")
def shown(text: object) -> str:
    """What can't be seen is written out; on the way from CR LF to lines, CR is no such thing."""
    return visible(str(text).replace("\r\n", "\n"))
