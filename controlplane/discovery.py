"""Finds the modules of one name in our apps: each `manifest`, each `api`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from django.apps import apps
from django.conf import settings


def modules_named(name: str) -> Iterator[ModuleType]:
    """`<app>.<name>` of each of our apps that has it, in the order of INSTALLED_APPS."""
    for app in apps.get_app_configs():
        if app.name in settings.OUR_APPS and find_spec(f"{app.name}.{name}") is not None:
            yield import_module(f"{app.name}.{name}")
