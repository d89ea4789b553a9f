"""Signing in with a local account: the password, then the code."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import FormView
from unfold.forms import AuthenticationForm

from accounts.models import User
from accounts.signin import breakglass
from accounts.signin.codes import WRONG_CODE, CodeForm, enrolment
from accounts.signin.models import SignInMethod
from accounts.signin.own_paths import own_path
from accounts.signin.sessions import SignInFacts, open_session

_BACKEND = "django.contrib.auth.backends.ModelBackend"


class LocalSignInView(LoginView):
    """Break-glass: e-mail address and password, then a code where one is needed. It offers the providers first."""

    template_name = "accounts/local_sign_in.html"
    form_class = AuthenticationForm

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """As the admin's own pages have it."""
        context = {
            **admin.site.each_context(self.request),
            "title": "Sign in",
            "app_path": self.request.get_full_path(),
        }
        return {**context, "next": self._next, **super().get_context_data(**kwargs), "site_title": "Narrowgate"}

    def form_valid(self, form: Any) -> HttpResponse:
        """The password is right."""
        user = cast("User", form.get_user())
        if breakglass.needs_code(user):
            breakglass.remember_pending(self.request, user, next_path=self._next)
            return redirect("sign-in-code")
        return _let_in(self.request, user, method=SignInMethod.PASSWORD, next_path=self._next)

    @property
    def _next(self) -> str:
        return own_path(self.request.POST.get("next") or self.request.GET.get("next", ""))


@method_decorator(never_cache, name="dispatch")
class CodeView(FormView):  # type: ignore[type-arg]  # not subscriptable at run time
    """The second step. Whoever has no authenticator yet, and needs one, is shown its key first."""

    template_name = "accounts/code.html"
    form_class = CodeForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Only after a right password, and soon."""
        found = breakglass.pending(request)
        if found is None:
            return redirect("sign-in-local")
        self._user, self._next = found
        return super().dispatch(request, *args, **kwargs)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With a key, for whoever has yet to set one up."""
        page = {**admin.site.each_context(self.request), "title": "Sign in"}
        return {**super().get_context_data(**kwargs), **page, **enrolment(self.request, self._user)}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """Let in with the right code."""
        if not breakglass.verify_code(self._user, form.cleaned_data["code"]):
            form.add_error("code", WRONG_CODE)
            return self.form_invalid(form)
        breakglass.forget_pending(self.request)
        return _let_in(self.request, self._user, method=SignInMethod.TOTP, next_path=self._next)


def _let_in(request: HttpRequest, user: User, *, method: SignInMethod, next_path: str) -> HttpResponseRedirect:
    answer = open_session(request, user, facts=SignInFacts(method=method), backend=_BACKEND, next_path=next_path)
    breakglass.note_use(user, method=method, address=request.META.get("REMOTE_ADDR", ""))
    return answer
