"""The control plane: who may reach what, what was decided, and what was done.

`env` reads the configuration, `settings` gives it to Django, `asgi` and `celery` are the two programs. `authority` is
what a signed-in person may do; `admin` and `api` are the bases on which each app builds its pages and endpoints.
"""
