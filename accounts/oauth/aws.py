"""An AWS identity as a token to exchange: a GetCallerIdentity request, signed by the caller and sent to STS by us.

    {"url": "https://sts.eu-central-1.amazonaws.com/", "headers": {…}} in base64
      → bounds → the one trust for the signed audience → fresh? → STS says who signed it → once

The caller keeps its secret; AWS's own service verifies the signature (SigV4), as it does for Vault and Teleport. Method
and body are ours, so that nothing but GetCallerIdentity is ever asked (CVE-2020-16250: Vault let the caller choose).
The audience header must be signed: what was made for another service is none for us. Only STS's own hosts are asked.
A trust is for one partition of AWS, which its issuer names: hosts and ARNs of another are none of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import structlog

from accounts.errors import BadCredential, ProviderUnreachable
from accounts.federation.saml_guard import UnsafeXml, parse_safely
from accounts.jwks import BadDocument, fetch_document, parse_object
from accounts.models import TrustKind
from accounts.oauth.once import take_once
from accounts.oidc import VerifiedToken, find_trust
from accounts.trust_checks import AWS_CHINA_ISSUER, AWS_GOVCLOUD_ISSUER, AWS_ISSUER

log = structlog.get_logger(__name__)

BY_AWS: Final = "aws"
AUDIENCE_HEADER: Final = "x-narrowgate-audience"
#: A session token is one or two kilobytes, and there is one.
MAX_TOKEN_CHARACTERS: Final = 16 * 1024
MAX_HEADER_CHARACTERS: Final = 8 * 1024
#: STS itself takes a request for 15 minutes; it is signed for one use, and clocks of machines differ by seconds.
MAX_AGE: Final = timedelta(minutes=5)
MAX_AHEAD: Final = timedelta(minutes=1)
#: Whoever could sign can sign again.
GOOD_FOR: Final = timedelta(minutes=15)

BODY: Final = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
#: STS's regional endpoints of the partition aws; a new region needs a line here.
REGIONS: Final = (
    "af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1",
    "ap-south-2", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5",
    "ap-southeast-6", "ap-southeast-7", "ca-central-1", "ca-west-1", "eu-central-1", "eu-central-2", "eu-north-1",
    "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2", "eu-west-3", "il-central-1", "me-central-1", "me-south-1",
    "mx-central-1", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of AWS with accounts of its own: as ARNs name it, and STS's hosts there."""

    name: str
    issuer: str
    hosts: frozenset[str]


#: Account numbers are unique within a partition only.
PARTITIONS: Final = (
    Partition("aws", AWS_ISSUER, frozenset({"sts.amazonaws.com", *(f"sts.{one}.amazonaws.com" for one in REGIONS)})),
    Partition(
        "aws-cn",
        AWS_CHINA_ISSUER,
        frozenset({"sts.cn-north-1.amazonaws.com.cn", "sts.cn-northwest-1.amazonaws.com.cn"}),
    ),
    Partition(
        "aws-us-gov",
        AWS_GOVCLOUD_ISSUER,
        frozenset({"sts.us-gov-west-1.amazonaws.com", "sts.us-gov-east-1.amazonaws.com"}),
    ),
)
_PARTITION_OF: Final = {host: partition for partition in PARTITIONS for host in partition.hosts}
HEADERS: Final = frozenset(
    {
        "authorization", "content-length", "content-type", "host", "x-amz-content-sha256", "x-amz-date",
        "x-amz-security-token", AUDIENCE_HEADER,
    }
)  # fmt: skip
_MUST_BE_SIGNED: Final = frozenset({"host", "x-amz-date", AUDIENCE_HEADER})

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[A-Z0-9]{16,128}/[0-9]{8}/[a-z0-9-]{4,30}/sts/aws4_request, ?"
    r"SignedHeaders=(?P<signed>[a-z0-9-]+(;[a-z0-9-]+)*), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,20}):(?:iam|sts)::(?P<account>[0-9]{12}):(?P<rest>[!-~]{1,1000})"
)
_RESULT: Final = ("Arn", "UserId", "Account")
_STS: Final = "{https://sts.amazonaws.com/doc/2011-06-15/}"


def verify_caller_identity(encoded: str, *, now: datetime, tenant_id: UUID | None) -> VerifiedToken:
    """Have STS say who signed this request, and take it, once. Raises `BadCredential` or `ProviderUnreachable`."""
    host, headers = _read(encoded)
    authorization = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if authorization is None:
        raise BadCredential("aws: no signature of version 4 for STS")
    signed = frozenset(authorization["signed"].split(";"))
    if not (signed >= _MUST_BE_SIGNED and set(headers) >= signed - {"host"}):
        raise BadCredential("aws: a header that must be signed isn't, or isn't there")
    partition = _PARTITION_OF[host]
    trust = find_trust(TrustKind.AWS, partition.issuer, [headers[AUDIENCE_HEADER]], tenant_id=tenant_id)
    signed_at = _signed_at(headers["x-amz-date"])
    if not now - MAX_AGE <= signed_at <= now + MAX_AHEAD:
        raise BadCredential("aws: not signed just now")
    claims = _claims(_asked(host, headers), partition=partition, audience=trust.audience)
    proof = f"aws\x00{authorization['signature']}"
    if not take_once(proof, tenant_id=trust.tenant_id, expires_at=signed_at + MAX_AGE + MAX_AHEAD):
        raise BadCredential("aws: used before")
    return VerifiedToken(trust=trust, claims=claims, expires_at=now + GOOD_FOR, authenticated_by=BY_AWS)


def _read(encoded: str) -> tuple[str, dict[str, str]]:
    """STS's host, and the headers by their names in small letters."""
    try:
        if len(encoded) > MAX_TOKEN_CHARACTERS:
            raise BadDocument("too long")
        padded = encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4)
        document = parse_object(base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True))
    except (BadDocument, ValueError, binascii.Error):
        raise BadCredential("aws: no JSON object in base64") from None
    url, given = document.get("url"), document.get("headers")
    host = url.removeprefix("https://").removesuffix("/") if isinstance(url, str) else ""
    if set(document) != {"url", "headers"} or host not in _PARTITION_OF or url != f"https://{host}/":
        raise BadCredential("aws: the URL isn't STS's")
    if not isinstance(given, dict) or not all(_is_value(value) for value in given.values()):
        raise BadCredential("aws: headers that aren't texts")
    headers = {name.lower(): value for name, value in given.items()}
    if len(headers) != len(given) or not set(headers) <= HEADERS or headers.get("host", host) != host:
        raise BadCredential("aws: a header that isn't sent on, or is there twice")
    return host, headers


def _is_value(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_HEADER_CHARACTERS and value.isascii() and value.isprintable()


def _signed_at(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadCredential("aws: no date") from None


def _asked(host: str, headers: Mapping[str, str]) -> bytes:
    """What STS answers to the request, with the body that is the only one we send."""
    sent = {name: value for name, value in headers.items() if name != "content-length"} | {"host": host}
    try:
        return fetch_document(url_of(host), method="POST", data=BODY, headers=sent)
    except BadDocument as error:
        raise BadCredential(f"aws: STS: {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("sts_unreachable", host=host, error=type(error).__name__)
        raise ProviderUnreachable("aws: STS can't be reached") from None


def url_of(host: str) -> str:
    """Where STS's host is asked."""
    return f"https://{host}/"


def _claims(answer: bytes, *, partition: Partition, audience: str) -> dict[str, Any]:
    """`sub` and `arn`, `account`, `user_id`; of a role `role`, `role_id` and `session`, of a user `user`."""
    try:
        root = parse_safely(answer)
    except UnsafeXml as error:
        raise BadCredential(f"aws: STS's answer: {error}") from None
    result = root.find(f"{_STS}GetCallerIdentityResult")
    said = {name: "" if result is None else result.findtext(f"{_STS}{name}") or "" for name in _RESULT}
    arn = _ARN.fullmatch(said["Arn"])
    if arn is None or root.tag != f"{_STS}GetCallerIdentityResponse" or arn["account"] != said["Account"]:
        raise BadCredential("aws: STS's answer names nobody")
    if arn["partition"] != partition.name:
        raise BadCredential("aws: STS's answer names somebody of another partition")
    claims = {
        "iss": partition.issuer, "aud": audience, "sub": said["Arn"], "arn": said["Arn"], "account": said["Account"],
        "user_id": said["UserId"],
    }  # fmt: skip
    kind, *names = arn["rest"].split("/")
    if kind == "assumed-role" and len(names) == 2:
        claims |= {"role": names[0], "session": names[1], "role_id": said["UserId"].partition(":")[0]}
    elif kind == "user" and names:
        claims |= {"user": names[-1]}
    return claims
