"""What the web process serves to anybody: health, the OpenAPI document and its page, and safe headers."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import OperationalError, connection
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError

from proxyworker.postgres import errors


def test_it_is_alive_without_asking_anybody() -> None:
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.django_db
def test_it_is_ready_when_database_and_redis_answer() -> None:
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "database": "ok", "redis": "ok"})


@pytest.mark.django_db
def test_it_says_which_part_is_down_and_no_more() -> None:
    with mock.patch.object(connection, "cursor", side_effect=OperationalError("password=hunter2 host=db.internal")):
        answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "database": "down", "redis": "ok"})
    with mock.patch.object(cache, "get", side_effect=RedisConnectionError("redis://:hunter2@redis.internal")):
        answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "database": "ok", "redis": "down"})


@pytest.mark.django_db
def test_the_openapi_document_tells_every_endpoint_without_signing_in() -> None:
    answer = Client().get("/api/v1/schema/", headers={"Accept": "application/json"})
    document = answer.json()
    assert answer.status_code == 200
    for path in ("agents", "agent-tokens", "api-tokens", "oidc-trusts", "tenants", "ledger-entries"):
        assert f"/api/v1/{path}/" in document["paths"]
    assert "bearer" in document["components"]["securitySchemes"]
    issued = document["components"]["schemas"]["IssuedAgentToken"]["properties"]
    assert "digest" not in issued
    assert "never again" in issued["token"]["description"]


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/api/v1/docs/", "/admin/login/"])
def test_a_page_runs_no_inline_script_and_loads_nothing_from_elsewhere(path: str) -> None:
    answer = Client().get(path)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>\s*\S", page)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db
def test_the_root_leads_to_the_admin() -> None:
    assert Client().get("/").headers["Location"] == "/admin/"


@pytest.mark.django_db
def test_a_sign_in_by_password_leads_to_the_admin_whatever_the_case_of_the_address() -> None:
    from accounts import actions
    from accounts.models import User

    actions.save_user(User(email="ada@acme.example"), acting_user=None, password="a-long-enough-phrase")
    client = Client()
    body = {"username": "Ada@ACME.example", "password": "a-long-enough-phrase"}
    assert client.post("/admin/login/", {**body, "password": "wrong"}).status_code == 200
    assert client.post("/admin/login/", body).headers["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_each_endpoint_says_what_it_does_and_each_filter_what_it_compares() -> None:
    document = Client().get("/api/v1/schema/", headers={"Accept": "application/json"}).json()
    assert "application/problem+json" in document["info"]["description"]
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert set(operation["tags"]) <= described, path
            assert all(one.get("description") for one in operation.get("parameters", ()) if one["in"] == "query"), path


def test_agents_find_a_page_of_their_own_with_our_address() -> None:
    answer = Client().get("/llms.txt")
    page = answer.content.decode()
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert f"{settings.NARROWGATE.public_url}/oauth/token" in page
    assert "https://gate.example.com" not in page
    constants = vars(errors).items()
    said = {code for name, code in constants if name.isupper() and re.fullmatch("[0-9A-Z]{5}", str(code))}
    said -= {errors.SUCCESSFUL_COMPLETION, errors.PROTOCOL_VIOLATION}
    untold = {code for code in said if f"`{code}`" not in page}
    assert said
    assert not untold
