"""What a list of REST may be asked for.

A parameter that it doesn't know is refused: a filter with a slip in its name, left out in silence, would answer with
all rows, and a script would take them for those that it meant.
"""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request
from rest_framework.views import APIView

#: Of every list: its pages, its order, and the form of the answer.
_OF_ALL: Final = frozenset({"page", "page_size", "ordering", "format"})


class KnownParameters(BaseFilterBackend):
    """Raises `ValidationError` for a parameter of a list that nothing would look at."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        """All rows, or the refusal."""
        if getattr(view, "detail", True):
            return queryset
        known = self.known(view, queryset)
        unknown = [name for name in request.query_params if name not in known]
        if unknown:
            there_are = f"This list knows: {', '.join(sorted(known))}."
            raise ValidationError(dict.fromkeys(unknown, f"There is no such parameter. {there_are}"))
        return queryset

    def known(self, view: APIView, queryset: QuerySet[Any]) -> frozenset[str]:
        """The parameters that a list understands."""
        filters = DjangoFilterBackend().get_filterset_class(view, queryset)
        names = _OF_ALL | set(filters.base_filters if filters is not None else ())
        return frozenset(names | {"search"} if getattr(view, "search_fields", None) else names)
