"""The OpenAPI document, made without a caller, in an empty scope: it describes, and shows no row.

Beside what the views say of their answers, each operation has a line that says what it does, each filter one that says
what it compares, and each operation lists the problems that it may answer with (`problems`).
"""

from __future__ import annotations

import inspect
from http import HTTPStatus
from typing import Any, Final

from django.conf import settings
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


#: How to use it, for whoever opens the page first. Markdown.
INTRODUCTION: Final = """\
Agents, targets, policies, approvals, and the record of what was done.

**Who asks.** `Authorization: Bearer <token>`, an API token: made in the admin (People › API tokens) or by
`POST /api/v1/api-tokens/`, with the rights of its person's role, or fewer. In a browser where somebody is signed in,
the session counts too. An *agent's* token is for the gate, and for nothing here.

    curl -H "Authorization: Bearer $TOKEN" "{url}/api/v1/operations/?status=denied&ordering=-at&page_size=20"

**Tenants.** A caller sees the rows of the tenants in which they have a role. Writing names the `tenant` by its slug,
unless there is only one. What isn't there and what isn't yours answer with the same 404.

**Lists** answer `count`, `next`, `previous`, `results`: `page`, `page_size` (500 at most), `ordering` (`-at` for the
latest first), `search`, and the filters that each names. A parameter that a list doesn't know is refused.

**Problems** come as `application/problem+json` (RFC 9457), with the field and what would be right in `errors`.

    curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\
      -d '{{"scope": "agent", "subject": "reporter", "reason": "it runs wild"}}' {url}/api/v1/kill-orders/

Secrets are written, never read: of a token that was made, the answer shows the text once.
"""

#: By a view's action: what it does, with the model's name.
_SUMMARIES: Final = {
    "list": "List {plural}",
    "retrieve": "Show one of the {plural}",
    "create": "Make a new {single}",
    "partial_update": "Change one of the {plural}",
    "destroy": "Delete one of the {plural}",
}
#: By a filter's lookup: what it compares.
_LOOKUPS: Final = {
    "gte": "`{field}` is this or later (greater).",
    "lte": "`{field}` is this or earlier (less).",
    "in": "`{field}` is one of these, split by commas.",
    "isnull": "Whether there is no `{field}`.",
    "icontains": "`{field}` holds this text, in any case.",
}
_PARAMETERS: Final = {
    "search": "Words to look for, in {fields}.",
    "ordering": "One of {fields}; with - before it, backwards.",
}


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
        from controlplane.urls import router  # it imports the views, which import this

        with scope(tenant=[]):
            schema = super().get_schema(*args, **kwargs)  # type: ignore[no-untyped-call]
        schema["info"]["description"] = INTRODUCTION.format(url=settings.NARROWGATE.public_url)
        schema["tags"] = [
            {"name": prefix, "description": inspect.cleandoc(viewset.__doc__ or "")}
            for prefix, viewset, _ in sorted(router.registry)
        ]
        return schema


class ProblemAutoSchema(AutoSchema):
    """An operation with what it does, its filters and its problems."""

    def get_summary(self) -> str | None:
        """One line: by the action, or as the view's method says."""
        action, model = getattr(self.view, "action", None), getattr(self.view, "model", None)
        if action in _SUMMARIES and model is not None:
            names = model._meta
            return _SUMMARIES[action].format(single=names.verbose_name, plural=names.verbose_name_plural)
        said = inspect.getdoc(getattr(self.view, action or "", None)) or ""
        return said.partition("\n")[0].rstrip(".") or None

    def _get_filter_parameters(self) -> list[Any]:
        parameters: list[Any] = super()._get_filter_parameters()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            parameter["description"] = self._say_parameter(parameter["name"])
        return parameters

    def _say_parameter(self, name: str) -> str:
        if name in _PARAMETERS:
            fields = getattr(self.view, f"{name}_fields", None) or ()
            return _PARAMETERS[name].format(fields=", ".join(f"`{field}`" for field in fields))
        field, _, lookup = name.rpartition("__")
        if lookup in _LOOKUPS:
            return _LOOKUPS[lookup].format(field=field.replace("__", "."))
        return f"`{name.replace('__', '.')}` is exactly this."

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        is_open = not self.get_auth()
        for status in () if is_open else (*_ALWAYS, *(() if self.method == "GET" else _OF_WRITING)):
            answer = self._get_response_for_code(  # type: ignore[no-untyped-call]
                ProblemSerializer, str(status.value), [PROBLEM_CONTENT_TYPE], direction
            )
            bodies.setdefault(str(status.value), {**answer, "description": status.phrase})
        return bodies
