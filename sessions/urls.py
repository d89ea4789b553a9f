"""The pages of this app beside admin and REST."""

from django.urls import path

from sessions.views import put_segment

urlpatterns = [path("link/v1/segments/<str:signed>/", put_segment, name="put-segment")]
