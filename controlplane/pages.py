"""Pages of the admin beside lists and forms: a form that asks before something is done, and a secret shown once.

    @action(description="Issue a token", permissions=["change"])
    def issue_token(self, request, object_id):
        return asking_page(self, request, title=…, form_class=…, submit="Issue", back_url=…, act=lambda form: …)

`act` does it and returns where to go: a URL, or a response such as `secret_page`. Buttons of the admin are links, so
nothing may be done on GET.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.views.decorators.debug import sensitive_variables

from controlplane.errors import Refusal


def asking_page(
    page: ModelAdmin[Any],
    request: HttpRequest,
    *,
    title: str,
    submit: str,
    back_url: str,
    act: Callable[[Any], HttpResponseBase | str],
    form_class: type[forms.Form] = forms.Form,
    explanation: str = "",
    done: str = "",
    is_dangerous: bool = False,
) -> HttpResponseBase:
    """Show the form; on POST do it. What the action refuses stands in the form."""
    form = form_class(data=request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            answer = act(form)
        except (Refusal, ValidationError) as error:
            add_errors(form, error)
        else:
            if done:
                messages.success(request, done)
            return redirect(answer) if isinstance(answer, str) else answer
    context = {
        **page.admin_site.each_context(request),
        "opts": page.opts,
        "title": title,
        "explanation": explanation,
        "form": form,
        "submit_text": submit,
        "back_url": back_url,
        "variant": "danger" if is_dangerous else "primary",
    }
    return TemplateResponse(request, "controlplane/form_page.html", context)


@sensitive_variables("secret", "context")
def secret_page(
    page: ModelAdmin[Any], request: HttpRequest, *, title: str, secret: str, explanation: str, back_url: str
) -> HttpResponse:
    """Show a secret that was just made. Neither a cache nor the browser's history keeps the page."""
    context = {
        **page.admin_site.each_context(request),
        "opts": page.opts,
        "title": title,
        "explanation": explanation,
        "secret": secret,
        "back_url": back_url,
    }
    return TemplateResponse(request, "controlplane/secret_page.html", context, headers={"Cache-Control": "no-store"})


def add_errors(form: forms.BaseForm, error: Refusal | ValidationError) -> None:
    """Put what an action refused where its fields are, or above the form."""
    if isinstance(error, Refusal):
        error = ValidationError({error.field or NON_FIELD_ERRORS: f"{error.problem}. {error.fix}."})
    by_field = error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
    for field, problems in by_field.items():
        known = field if field in form.fields else None
        for problem in problems:
            form.add_error(known, problem if known or field == NON_FIELD_ERRORS else f"{field}: {problem}")
