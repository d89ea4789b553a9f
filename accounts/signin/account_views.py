"""The pages of one's own account: who one is here, where one is signed in, and a local account's authenticator."""

from __future__ import annotations

from typing import Any, Final, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django.views.generic import FormView

from accounts.models import User
from accounts.signin import breakglass, replacing
from accounts.signin.access import own, roles_of
from accounts.signin.codes import WRONG_CODE, CodeForm, enrolment, shown
from accounts.signin.models import SignIn, TotpDevice
from accounts.signin.sessions import end_all, live
from controlplane.tenancy import every_tenant

#: On one's own page.
MAX_LIVE: Final = 50
MAX_ENDED: Final = 10


@require_GET
@login_required
@never_cache
def my_account(request: HttpRequest) -> HttpResponseBase:
    """Who one is, one's roles, and where one is signed in."""
    current, user = _current(request), _user(request)
    with every_tenant():
        going = own(live(now=timezone.now()), current)
        ended = own(SignIn.objects.exclude(pk__in=going.values("pk")), current)
        context = {
            **admin.site.each_context(request),
            "title": "Your account",
            "current": current,
            "roles": roles_of(current),
            "sign_ins": list(going.select_related("provider")[:MAX_LIVE]),
            "ended": list(ended.select_related("provider")[:MAX_ENDED]),
            "is_local": current.provider_id is None,
            "authenticator": TotpDevice.objects.filter(user=user, confirmed=True).first(),
        }
        context["others"] = going.count() - 1
    return TemplateResponse(request, "accounts/my_account.html", context)


@require_POST
@login_required
def end_my_sessions(request: HttpRequest) -> HttpResponse:
    """End one of one's sign-ins (`sign_in`), or by `which` the `others`, or `all`, this one too."""
    current = _current(request)
    which, wanted = request.POST.get("which", ""), request.POST.get("sign_in", "")
    with every_tenant():
        rows = own(live(now=timezone.now()), current)
        if wanted:
            rows = rows.filter(pk=_id(wanted))
        elif which == "others":
            rows = rows.exclude(pk=current.pk)
        elif which != "all":
            raise BadRequest("one sign_in, or which=others, or which=all")
        ended = end_all(rows, acting_user=_user(request))
    if which != "all":
        messages.success(request, f"{ended} sign-in{'' if ended == 1 else 's'} ended.")
    return redirect("my-account")


@method_decorator((never_cache, login_required), name="dispatch")
class LocalAccountView(FormView):  # type: ignore[type-arg]  # not subscriptable at run time
    """A page about one's authenticator, which asks for a code."""

    template_name = "accounts/code.html"
    form_class = CodeForm
    subtitle = "Second factor for"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """For local sign-ins only: a provider doesn't vouch for what works without it."""
        if _current(request).provider_id is not None:
            raise PermissionDenied
        self._user = _user(request)
        return self.lead_elsewhere() or super().dispatch(request, *args, **kwargs)

    def lead_elsewhere(self) -> HttpResponseBase | None:
        """To the page that comes before this one, or None."""
        raise NotImplementedError

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """As the page of the sign-in, and with a way back."""
        page = {"title": "Your authenticator", "subtitle": self.subtitle, "back_url": reverse("my-account")}
        return {**super().get_context_data(**kwargs), **admin.site.each_context(self.request), **page}

    def refuse(self, form: CodeForm) -> HttpResponse:
        """The code isn't right."""
        form.add_error("code", WRONG_CODE)
        return self.form_invalid(form)


class EnrolView(LocalAccountView):
    """Set an authenticator up while signed in."""

    def lead_elsewhere(self) -> HttpResponseBase | None:
        """Whoever has one replaces it."""
        return redirect("my-account") if breakglass.has_authenticator(self._user) else None

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With a key."""
        return {**super().get_context_data(**kwargs), **enrolment(self.request, self._user)}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """The app works."""
        if not breakglass.verify_code(self._user, form.cleaned_data["code"]):
            return self.refuse(form)
        messages.success(self.request, "From now on, your password needs a code of this app beside it.")
        return redirect("my-account")


class ReplaceView(LocalAccountView):
    """Another authenticator, first step: a code of the present one."""

    subtitle = "The authenticator that you have for"

    def lead_elsewhere(self) -> HttpResponseBase | None:
        """Whoever has none sets one up."""
        return None if breakglass.has_authenticator(self._user) else redirect("my-authenticator")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With what comes of it."""
        lead = "Enter a code of the app that you have now. Then you are shown a key for the new one."
        return {**super().get_context_data(**kwargs), "lead": lead}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """On to the new key."""
        if not replacing.begin(self.request, self._user, form.cleaned_data["code"]):
            return self.refuse(form)
        return redirect("my-new-authenticator")


class NewKeyView(LocalAccountView):
    """Another authenticator, second step: the new key, and a code that shows that the app has it."""

    subtitle = "Your new authenticator for"

    def lead_elsewhere(self) -> HttpResponseBase | None:
        """Only after a code of the present one, and soon."""
        return None if replacing.has_begun(self.request) else redirect("replace-my-authenticator")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With a new key when the page is fetched; the answer to a wrong code only offers another."""
        is_fetched = self.request.method == "GET"
        key = shown(replacing.offer_key(self.request, self._user), self._user) if is_fetched else {"may_renew": True}
        return {**super().get_context_data(**kwargs), "is_replacing": True, **key}

    def form_valid(self, form: CodeForm) -> HttpResponse:
        """The new app works, and the old one no more."""
        address = self.request.META.get("REMOTE_ADDR", "")
        if not replacing.confirm(self.request, self._user, form.cleaned_data["code"], address=address):
            return self.refuse(form)
        messages.success(self.request, "Your codes come of the new app from now on; the old one's are good no more.")
        return redirect("my-account")


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest("not the id of a sign-in") from None


def _user(request: HttpRequest) -> User:
    return cast("User", request.user)


def _current(request: HttpRequest) -> SignIn:
    return cast("SignIn", request.sign_in)  # type: ignore[attr-defined]  # the middleware put it there
