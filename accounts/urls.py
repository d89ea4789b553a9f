"""Signing in and out, and the token endpoint: local accounts, the tenants' providers, and one's own account."""

from __future__ import annotations

from django.urls import include, path

from accounts.federation import views as federation
from accounts.signin import account_views as account
from accounts.signin import views as signin

urlpatterns = [
    path("", include("accounts.oauth.urls")),
    path("", include("accounts.scim.urls")),
    path("admin/login/", signin.LocalSignInView.as_view(), name="sign-in-local"),  # in place of the admin's own
    path("admin/logout/", federation.sign_out, name="sign-out"),
    path("sign-in/", federation.choose, name="sign-in"),
    path("sign-in/code/", signin.CodeView.as_view(), name="sign-in-code"),
    path("sign-in/mine/", account.my_account, name="my-account"),
    path("sign-in/mine/end/", account.end_my_sessions, name="end-my-sessions"),
    path("sign-in/mine/authenticator/", account.EnrolView.as_view(), name="my-authenticator"),
    path("sign-in/mine/authenticator/replace/", account.ReplaceView.as_view(), name="replace-my-authenticator"),
    path("sign-in/mine/authenticator/new/", account.NewKeyView.as_view(), name="my-new-authenticator"),
    path("sign-in/<slug:tenant>/", federation.choose_in_tenant, name="sign-in-tenant"),
    path("sign-in/<slug:tenant>/<slug:provider>/", federation.start, name="sign-in-start"),
    path("sign-in/<slug:tenant>/<slug:provider>/callback/", federation.callback, name="sign-in-callback"),
    path("sign-in/<slug:tenant>/<slug:provider>/metadata/", federation.saml_metadata, name="saml-metadata"),
    path("sign-in/<slug:tenant>/<slug:provider>/acs/", federation.saml_acs, name="saml-acs"),
    path("sign-in/<slug:tenant>/<slug:provider>/finish/", federation.saml_finish, name="saml-finish"),
    path("sign-in/<slug:tenant>/<slug:provider>/logout/", federation.saml_logout, name="saml-logout"),
]
