"""How lists of REST are paged."""

from __future__ import annotations

from rest_framework.pagination import PageNumberPagination


class BoundedPagination(PageNumberPagination):
    """`?page=` and `?page_size=`, at most 500 rows a page."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500
