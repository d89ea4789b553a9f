"""Pages of local accounts, and of one's own sign-ins."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django.views.generic import FormView
from unfold.forms import AuthenticationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from accounts.signin import breakglass
from accounts.signin.models import CODE_DIGITS, SignIn, SignInMethod
from accounts.signin.own_paths import own_path
from accounts.signin.sessions import SignInFacts, end_sign_ins, live, open_session
from controlplane.tenancy import every_tenant

_BACKEND = "django.contrib.auth.backends.ModelBackend"
#: On one's own page.
MAX_SESSIONS = 50


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


class CodeForm(forms.Form):
    """The six digits of an authenticator app."""

    code = forms.RegexField(
        rf"^[0-9]{{{CODE_DIGITS}}}\Z",
        label="Code of your authenticator app",
        error_messages={"invalid": f"Enter the {CODE_DIGITS} digits that your app shows now."},
        widget=UnfoldAdminTextInputWidget(
            attrs={"autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": ""}
        ),
    )


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
        return {**super().get_context_data(**kwargs), **_page(self.request), **_enrolment(self.request, self._user)}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """Let in with the right code."""
        if not breakglass.verify_code(self._user, form.cleaned_data["code"]):
            form.add_error("code", "That code isn't right, or came too soon after a wrong one. Wait for the next.")
            return self.form_invalid(form)
        breakglass.forget_pending(self.request)
        return _let_in(self.request, self._user, method=SignInMethod.TOTP, next_path=self._next)


@method_decorator((never_cache, login_required), name="dispatch")
class EnrolView(FormView):  # type: ignore[type-arg]  # not subscriptable at run time
    """Set an authenticator up while signed in with a local account."""

    template_name = "accounts/code.html"
    form_class = CodeForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """For local sign-ins only: a provider doesn't vouch for what works without it."""
        self._user = cast("User", request.user)
        if _current(request).provider_id is not None:
            raise PermissionDenied
        if breakglass.has_authenticator(self._user):
            return redirect("my-sessions")
        return super().dispatch(request, *args, **kwargs)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With a key."""
        page = {**_page(self.request), "back_url": reverse("my-sessions")}
        return {**super().get_context_data(**kwargs), **page, **_enrolment(self.request, self._user)}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """The app works."""
        if not breakglass.verify_code(self._user, form.cleaned_data["code"]):
            form.add_error("code", "That code isn't right, or came too soon after a wrong one. Wait for the next.")
            return self.form_invalid(form)
        messages.success(self.request, "From now on, your password needs a code of this app beside it.")
        return redirect("my-sessions")


@require_GET
@login_required
def my_sessions(request: HttpRequest) -> HttpResponseBase:
    """Where one is signed in."""
    current = _current(request)
    with every_tenant():
        rows = list(_mine(current).select_related("provider")[:MAX_SESSIONS])
    context = {
        **_page(request),
        "title": "Where you are signed in",
        "sign_ins": rows,
        "current": current,
        "may_enrol": current.provider_id is None and not breakglass.has_authenticator(cast("User", request.user)),
    }
    return TemplateResponse(request, "accounts/my_sessions.html", context)


@require_POST
@login_required
def end_my_sessions(request: HttpRequest) -> HttpResponseRedirect:
    """End one of one's sign-ins (`sign_in`), or all of them, this one too."""
    with every_tenant():
        rows = _mine(_current(request)).select_related("tenant", "user")
        wanted = request.POST.get("sign_in", "")
        chosen = [row for row in rows[:MAX_SESSIONS] if not wanted or str(row.pk) == wanted]
    end_sign_ins(chosen, acting_user=cast("User", request.user))
    return redirect("my-sessions")


def _mine(current: SignIn) -> Any:
    """One's own sign-ins; in a session through a provider, those through it: it vouches for no more."""
    rows = live(now=timezone.now()).filter(user=current.user_id)
    return rows if current.provider_id is None else rows.filter(provider=current.provider_id)


def _current(request: HttpRequest) -> SignIn:
    return cast("SignIn", request.sign_in)  # type: ignore[attr-defined]  # the middleware put it there


def _let_in(request: HttpRequest, user: User, *, method: SignInMethod, next_path: str) -> HttpResponseRedirect:
    answer = open_session(request, user, facts=SignInFacts(method=method), backend=_BACKEND, next_path=next_path)
    breakglass.note_use(user, method=method, address=request.META.get("REMOTE_ADDR", ""))
    return answer


def _page(request: HttpRequest) -> dict[str, Any]:
    return {**admin.site.each_context(request), "title": "Sign in"}


def _enrolment(request: HttpRequest, user: User) -> dict[str, Any]:
    """A new key when the page is fetched; the answer to a wrong code only offers another."""
    if breakglass.has_authenticator(user):
        return {}
    if request.method != "GET":
        return {"may_renew": True}
    key = breakglass.new_key(user)
    url = breakglass.otpauth_url(key, user)
    return {"key_text": breakglass.key_text(key), "otpauth_url": url, "qr_code": breakglass.qr_code(url)}
