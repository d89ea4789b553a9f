"""AWS identities at the token endpoint: STS says who signed; what wasn't signed for us, now, is refused unasked."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.identify import IdentifiedAgent, identify_agent
from accounts.models import OidcTrust, TrustKind
from accounts.oauth import aws
from accounts.oauth.exchange import AWS_CALLER, TOKEN_EXCHANGE
from accounts.trust_checks import AWS_CHINA_ISSUER, AWS_GOVCLOUD_ISSUER, AWS_ISSUER
from tests.accounts.conftest import Site, make_trust
from tests.accounts.sts import ANSWER, HOST, ROLE_ARN, Caller, Sts, running_sts, signed_headers
from tests.accounts.test_oauth import post, refused

AUDIENCE = "gate.acme.example"


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(scope="module")
def _running() -> Iterator[Sts]:
    with running_sts() as running:
        yield running


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def sts(_running: Sts, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> Sts:
    _running.callers, _running.answer, _running.status = {caller.key_id: caller}, None, 200
    _running.asked.clear()
    monkeypatch.setattr(aws, "url_of", lambda _: _running.url)
    return _running


def make_aws_trust(site: Site, *conditions: str, **fields: Any) -> OidcTrust:
    values = {
        "name": "aws",
        "kind": TrustKind.AWS,
        "issuer": AWS_ISSUER,
        "audience": AUDIENCE,
        "algorithms": ["RS256"],
        "label_claims": ["arn"],
        **fields,
    }
    trust = OidcTrust(tenant=site.tenant, **values)
    given = conditions or ("account = 123456789012", "role = deployer")
    actions.save_trust(trust, acting_user=None, rules=[actions.RuleSpec(conditions=given, agent_id=site.agent.pk)])
    return trust


@pytest.fixture
def trust(acme: Site) -> OidcTrust:
    return make_aws_trust(acme)


def headers_of(caller: Caller, **changed: Any) -> dict[str, str]:
    return signed_headers(caller, **{"at": timezone.now(), "audience": AUDIENCE, **changed})


def present(headers: Any, *, url: str = f"https://{HOST}/", path: str = "/oauth/token", **more: Any) -> Any:
    document = json.dumps({"url": url, "headers": headers, **more})
    return present_text(base64.b64encode(document.encode()).decode(), path=path)


def present_text(text: str, *, path: str = "/oauth/token") -> Any:
    return post(
        {"grant_type": TOKEN_EXCHANGE, "subject_token": text, "subject_token_type": AWS_CALLER, "scope": "target:shop"},
        path=path,
    )


def got(answer: Any) -> IdentifiedAgent:
    assert answer.status_code == 200, answer.content
    return identify_agent(answer.json()["access_token"], now=timezone.now())


def refused_unasked(answer: Any, sts: Sts) -> None:
    refused(answer, "invalid_grant")
    assert sts.asked == []


# ---------------------------------------------------------------- who signed it


def test_a_role_gets_a_token_of_its_agent(acme: Site, sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    identified = got(present(headers_of(caller)))
    assert (identified.agent, identified.authenticated_by) == (acme.agent, "aws")
    assert identified.labels == {"arn": ROLE_ARN}
    assert identified.targets == ("shop",)
    [(body, headers)] = sts.asked
    assert body == b"Action=GetCallerIdentity&Version=2011-06-15"
    assert headers["host"] == HOST
    assert "accept-language" not in headers


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        (f"sub = {ROLE_ARN}", True),
        (f"arn ~ {ROLE_ARN.rpartition('/')[0]}/*", True),
        ("session = build-7", True),
        ("role_id = AROAEXAMPLE000000001", True),
        ("account = 210987654321", False),
        ("role = deploy", False),
        ("user = deployer", False),
    ],
)
def test_rules_speak_of_account_and_arn(acme: Site, sts: Sts, caller: Caller, condition: str, matches: bool) -> None:
    make_aws_trust(acme, "account = 123456789012", condition)
    assert present(headers_of(caller)).status_code == (200 if matches else 400)


def test_a_user_has_a_name_and_no_role(acme: Site, sts: Sts, caller: Caller) -> None:
    make_aws_trust(acme, "account = 123456789012", "user = robot")
    caller.arn, caller.user_id = "arn:aws:iam::123456789012:user/ops/robot", "AIDAEXAMPLE000000001"
    assert got(present(headers_of(caller))).agent == acme.agent


def test_a_role_of_the_same_name_in_another_account_is_another(sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    caller.account, caller.arn = "210987654321", "arn:aws:sts::210987654321:assumed-role/deployer/build-7"
    refused(present(headers_of(caller)), "invalid_grant")


def test_the_global_endpoint_is_asked_too(acme: Site, sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    host = "sts.amazonaws.com"
    assert got(present(headers_of(caller, host=host), url=f"https://{host}/")).agent == acme.agent


# ---------------------------------------------------------------- what isn't for us, or isn't theirs


CHINA = ("aws-cn", AWS_CHINA_ISSUER, "sts.cn-northwest-1.amazonaws.com.cn")
GOVCLOUD = ("aws-us-gov", AWS_GOVCLOUD_ISSUER, "sts.us-gov-east-1.amazonaws.com")


@pytest.mark.parametrize(("partition", "issuer", "host"), [CHINA, GOVCLOUD])
def test_a_trust_for_another_partition_asks_its_sts_and_takes_its_arns(
    acme: Site, sts: Sts, caller: Caller, partition: str, issuer: str, host: str
) -> None:
    make_aws_trust(acme, issuer=issuer)
    caller.arn = ROLE_ARN.replace("arn:aws:", f"arn:{partition}:")
    identified = got(present(headers_of(caller, host=host), url=f"https://{host}/"))
    assert identified.labels == {"arn": caller.arn}
    assert sts.asked[0][1]["host"] == host


@pytest.mark.parametrize(("partition", "issuer", "host"), [CHINA, GOVCLOUD])
def test_the_same_account_of_another_partition_is_another(
    acme: Site, sts: Sts, caller: Caller, partition: str, issuer: str, host: str
) -> None:
    make_aws_trust(acme)
    refused_unasked(present(headers_of(caller, host=host), url=f"https://{host}/"), sts)
    caller.arn = ROLE_ARN.replace("arn:aws:", f"arn:{partition}:")
    refused(present(headers_of(caller)), "invalid_grant")
    with scope(tenant=acme.tenant):
        OidcTrust.objects.update(issuer=issuer)
    sts.asked.clear()
    refused_unasked(present(headers_of(caller)), sts)
    caller.arn = ROLE_ARN
    refused(present(headers_of(caller, host=host), url=f"https://{host}/"), "invalid_grant")


def test_a_request_is_good_once(sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    headers = headers_of(caller)
    assert present(headers).status_code == 200
    cache.clear()
    refused(present(headers), "invalid_grant")
    refused(present({name.upper(): value for name, value in headers.items()}), "invalid_grant")


def test_another_key_or_a_changed_request_is_sts_s_to_refuse(sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    stranger = Caller(secret="another")
    refused(present(headers_of(stranger)), "invalid_grant")
    for name, value in (("x-amz-security-token", "another"), ("content-type", "text/plain")):
        refused(present({**headers_of(caller), name: value}), "invalid_grant")
    refused(present(headers_of(caller, body=b"Action=DecodeAuthorizationMessage")), "invalid_grant")
    assert len(sts.asked) == 4


def test_what_was_signed_for_another_service_is_refused_unasked(sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    refused_unasked(present(headers_of(caller, audience="vault.acme.example")), sts)
    refused_unasked(present(headers_of(caller, audience=None)), sts)
    refused_unasked(present({**headers_of(caller, audience=None), aws.AUDIENCE_HEADER: AUDIENCE}), sts)


@pytest.mark.parametrize("unsigned", ["x-narrowgate-audience", "host", "x-amz-date"])
def test_what_binds_the_request_must_be_signed(sts: Sts, caller: Caller, trust: OidcTrust, unsigned: str) -> None:
    refused_unasked(present(headers_of(caller, unsigned=unsigned)), sts)


@pytest.mark.parametrize("minutes", [-6, 2])
def test_a_request_of_another_time_is_refused_unasked(sts: Sts, caller: Caller, trust: OidcTrust, minutes: int) -> None:
    refused_unasked(present(headers_of(caller, at=timezone.now() + timedelta(minutes=minutes))), sts)


@pytest.mark.parametrize(
    "url",
    [
        "https://sts.evil.example/",
        "https://sts.amazonaws.com.evil.example/",
        "https://evil.example/sts.amazonaws.com/",
        "https://sts.amazonaws.com@evil.example/",
        "https://sts.nowhere-1.amazonaws.com/",
        "https://sts.cn-north-1.amazonaws.com.cn/",
        "https://sts.us-gov-west-1.amazonaws.com/",
        "https://iam.amazonaws.com/",
        "http://sts.amazonaws.com/",
        "https://sts.amazonaws.com:8443/",
        "https://sts.amazonaws.com/?Action=AssumeRole",
        "https://sts.amazonaws.com/x/",
        "https://sts.amazonaws.com//",
        "https://sts.amazonaws.com",
        "https://STS.amazonaws.com/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "",
        None,
        ["https://sts.amazonaws.com/"],
    ],
)
def test_nobody_but_sts_is_ever_asked(sts: Sts, caller: Caller, trust: OidcTrust, url: Any) -> None:
    refused_unasked(present(headers_of(caller), url=url), sts)


@pytest.mark.parametrize(
    "more",
    [
        {"x-amz-target": "Other"},
        {"accept": "application/json"},
        {"cookie": "a=b"},
        {"transfer-encoding": "chunked"},
        {"Authorization": "again"},
        {"host": "evil.example"},
        {"x-amz-date": "yesterday"},
        {"x-amz-date": "20261123T000000Z\r\nX: y"},
        {"authorization": "Bearer x"},
        {"authorization": "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE000000001/20261123/us-east-1/s3/aws4_request"},
        {"x-amz-security-token": 1},
        {"x-amz-security-token": "é"},
        {"x-amz-security-token": "x" * 9_000},
    ],
)
def test_other_headers_and_values_are_refused_unasked(
    sts: Sts, caller: Caller, trust: OidcTrust, more: dict[str, Any]
) -> None:
    refused_unasked(present({**headers_of(caller), **more}), sts)


@pytest.mark.parametrize(
    "text", ["no base64!", "é", "e30=", "W10=", "bnVsbA==", "A" * 20_000, base64.b64encode(b"[" * 9_000).decode()]
)
def test_what_is_no_request_is_refused_unasked(sts: Sts, trust: OidcTrust, text: str) -> None:
    refused_unasked(present_text(text), sts)


def test_a_body_cant_be_brought_along(sts: Sts, caller: Caller, trust: OidcTrust) -> None:
    refused_unasked(present(headers_of(caller), body="QWN0aW9uPUFzc3VtZVJvbGU="), sts)
    nothings: tuple[Any, ...] = ([], "x", None)
    for headers in nothings:
        refused_unasked(present(headers), sts)


# ---------------------------------------------------------------- what STS answers


SOUND = ANSWER.format(arn=ROLE_ARN, user_id="AROA:x", account="123456789012")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{}",
        "<a/>",
        SOUND.replace("https://sts.amazonaws.com/doc", "https://evil.example/doc"),
        SOUND.replace("GetCallerIdentityResponse", "AssumeRoleResponse"),
        SOUND.replace("<Account>123456789012", "<Account>210987654321"),
        SOUND.replace("arn:aws:", "arn:aws-cn:"),
        SOUND.replace(ROLE_ARN, ""),
        SOUND.replace(ROLE_ARN, f"{ROLE_ARN}<!-- -->/more"),
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + SOUND,
        "<a>" * 1_000,
        " " * 300_000,
    ],
)
def test_an_answer_that_isnt_sts_s_word_names_nobody(sts: Sts, caller: Caller, trust: OidcTrust, answer: str) -> None:
    sts.answer = answer.encode()
    refused(present(headers_of(caller)), "invalid_grant")
    assert len(sts.asked) == 1


@pytest.mark.parametrize("status", [301, 400, 403, 500, 503])
def test_an_error_of_sts_lets_nobody_in(sts: Sts, caller: Caller, trust: OidcTrust, status: int) -> None:
    sts.status, sts.answer = status, SOUND.encode()
    refused(present(headers_of(caller)), "invalid_grant")


def test_when_sts_is_out_of_reach_the_request_isnt_spent(
    sts: Sts, caller: Caller, trust: OidcTrust, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = headers_of(caller)
    with monkeypatch.context() as patch:
        patch.setattr(aws, "url_of", lambda _: "http://127.0.0.1:1/")
        refused(present(headers), "invalid_grant")
    assert present(headers).status_code == 200


def test_outside_of_a_test_sts_is_asked_by_https() -> None:
    assert aws.url_of(HOST) == f"https://{HOST}/"


# ---------------------------------------------------------------- tenants, trusts


def test_another_tenants_trust_is_none_here(acme: Site, globex: Site, sts: Sts, caller: Caller) -> None:
    make_aws_trust(acme)
    refused_unasked(present(headers_of(caller), path="/oauth/globex/token"), sts)
    make_aws_trust(globex)
    refused_unasked(present(headers_of(caller)), sts)  # whose it is can't be told
    assert got(present(headers_of(caller), path="/oauth/globex/token")).agent == globex.agent


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": "https://sts.evil.example"},
        {"metadata": "x"},
        {"jwks_url": "https://x.example/"},
        {"audience": "{x}"},
    ],
)
def test_a_trust_that_cant_work_is_refused(acme: Site, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_aws_trust(acme, **fields)


@pytest.mark.parametrize(
    "conditions",
    [
        ("role = deployer",),
        ("arn ~ *:assumed-role/deployer/*",),
        ("account ~ 123*", "role = deployer"),
        ("user = robot",),
    ],
)
def test_a_rule_that_would_hold_in_anybodys_account_is_refused(acme: Site, conditions: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="anybody's account"):
        make_aws_trust(acme, *conditions)


@pytest.mark.parametrize(
    "conditions", [(f"arn = {ROLE_ARN}",), ("role_id = AROAEXAMPLE000000001", "session ~ build-*"), ("account = 1",)]
)
def test_a_rule_that_says_whose_it_is_is_kept(acme: Site, conditions: tuple[str, ...]) -> None:
    assert make_aws_trust(acme, *conditions).pk


def test_a_trust_doesnt_become_one_for_aws_with_rules_for_anybody(acme: Site, provider: Any) -> None:
    trust = make_trust(acme, provider)
    trust.kind, trust.issuer, trust.jwks_url = TrustKind.AWS, AWS_ISSUER, ""
    actions.save_trust(trust, acting_user=None, rules=[actions.RuleSpec(("account = 1",), acme.agent.pk)])
    with pytest.raises(ValidationError, match="anybody's account"):
        actions.save_trust(trust, acting_user=None, rules=[actions.RuleSpec(("role = x",), acme.agent.pk)])
