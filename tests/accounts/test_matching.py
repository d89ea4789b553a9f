"""Conditions over claims: what holds, what doesn't, and what is no condition."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.matching import BadCondition, parse_condition

CLAIMS: dict[str, Any] = {
    "sub": "repo:acme/app:ref:refs/heads/main",
    "groups": ["read", "write", 7, None, {"x": "y"}],
    "protected": True,
    "number": 42,
    "fraction": 4.2,
    "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "reporter"}},
    "https://sts.example/": {"account": "1234", "a~b": "tilde"},
    "nul": "a\x00b",
    "bracket": "[abc]",
    "empty": "",
    "nothing": None,
}


@pytest.mark.parametrize(
    "line",
    [
        "sub = repo:acme/app:ref:refs/heads/main",
        "sub ~ repo:acme/*:ref:refs/heads/main",
        "sub ~ repo:acme/app:ref:refs/heads/mai?",
        "groups = write",
        "groups ~ w*",
        "groups = 7",
        "protected = true",
        "number = 42",
        "/kubernetes.io/namespace = prod",
        "/kubernetes.io/serviceaccount/name ~ rep*",
        "/https:~1~1sts.example~1/account = 1234",
        "/https:~1~1sts.example~1/a~0b = tilde",
        "bracket ~ [abc*",
    ],
)
def test_a_condition_holds(line: str) -> None:
    condition = parse_condition(line)
    assert condition.holds(CLAIMS)
    assert str(condition) == line


@pytest.mark.parametrize(
    "line",
    [
        "sub = repo:acme/*",
        "sub = Repo:acme/app:ref:refs/heads/main",
        "sub ~ repo:ACME/*",
        "sub ~ acme/app",
        "sub ~ [r]epo*",
        "groups = x",
        "groups ~ *y",
        "protected = True",
        "protected = 1",
        "fraction = 4.2",
        "kubernetes.io = prod",
        "kubernetes.io/namespace = prod",
        "/kubernetes.io/namespace/0 = prod",
        "/kubernetes.io = prod",
        "/sub/0 = r",
        "nul ~ a*b",
        "nothing = None",
        "nothing = null",
        "missing ~ a*",
    ],
)
def test_a_condition_doesnt_hold(line: str) -> None:
    assert not parse_condition(line).holds(CLAIMS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sub",
        "sub =",
        "sub = ",
        "= x",
        "sub == x",
        "sub=x",
        "sub ~ *",
        "sub ~ ?*",
        "sub = a\nb",
        "/ = x",
        "s = " + "x" * 700,
    ],
)
def test_what_is_no_condition_is_refused(line: str) -> None:
    with pytest.raises(BadCondition):
        parse_condition(line)


def test_a_pattern_of_many_stars_is_answered_at_once() -> None:
    assert not parse_condition("sub ~ " + "a*" * 40 + "b").holds({"sub": "a" * 30_000})
