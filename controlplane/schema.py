"""The OpenAPI document, made without a caller, in an empty scope: it describes, and shows no row.

Beside what the views say of their answers, each operation lists the problems that it may answer with (`problems`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from django_scopes import scope
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from controlplane.problems import PROBLEM_CONTENT_TYPE

#: Any request may be malformed, of nobody, of somebody who may not, or one too many.
_ALWAYS: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.NOT_ACCEPTABLE,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_OF_WRITING: Final = (
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


class FieldProblemSerializer(serializers.Serializer[Any]):
    """What is wrong with a field; an empty `field` is the request as a whole."""

    field = serializers.CharField()
    problem = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    errors = FieldProblemSerializer(many=True)  # type: ignore[assignment]  # a field, though of a base's name


class UnscopedSchemaGenerator(SchemaGenerator):
    """Lets filters on related rows name their model; they are asked for no rows here."""

    def get_schema(self, *args: Any, **kwargs: Any) -> Any:
        """The document."""
        with scope(tenant=[]):
            return super().get_schema(*args, **kwargs)  # type: ignore[no-untyped-call]


class ProblemAutoSchema(AutoSchema):
    """An operation with its problems."""

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        is_open = not self.get_auth()
        for status in () if is_open else (*_ALWAYS, *(() if self.method == "GET" else _OF_WRITING)):
            answer = self._get_response_for_code(  # type: ignore[no-untyped-call]
                ProblemSerializer, str(status.value), [PROBLEM_CONTENT_TYPE], direction
            )
            bodies.setdefault(str(status.value), {**answer, "description": status.phrase})
        return bodies
