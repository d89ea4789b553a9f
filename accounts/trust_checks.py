"""What a trust and its rules must look like to be saved, by its kind. A provider isn't asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from django.core.exceptions import ValidationError

from accounts.federation.metadata import read_saml
from accounts.jwks import BadDocument, is_fetchable
from accounts.models import OidcTrust, TrustKind

#: The issuer of caller identities, and of those of AWS's other partitions: accounts are unique within one only.
AWS_ISSUER: Final = "https://sts.amazonaws.com"
AWS_CHINA_ISSUER: Final = "https://sts.cn-north-1.amazonaws.com.cn"
AWS_GOVCLOUD_ISSUER: Final = "https://sts.us-gov-west-1.amazonaws.com"
AWS_ISSUERS: Final = (AWS_ISSUER, AWS_CHINA_ISSUER, AWS_GOVCLOUD_ISSUER)
#: Conditions that hold in one AWS account only.
_ANCHORS: Final = tuple(f"{claim} = " for claim in ("account", "arn", "sub", "user_id", "role_id"))
_URL: Final = "Use an https URL without user name and fragment."
_BRACES: Final = "Replace what stands in braces."


def check_trust(trust: OidcTrust) -> None:
    """Raises ValidationError, which names the fields."""
    wrong: dict[str, str] = {}
    if not trust.algorithms or len(set(trust.algorithms)) != len(trust.algorithms):
        wrong["algorithms"] = "Name at least one algorithm, each once."
    for field in ("issuer", "audience", "jwks_url", "metadata_url"):
        if "{" in getattr(trust, field):
            wrong[field] = _BRACES
    if trust.kind == TrustKind.JWT and not is_fetchable(trust.issuer):
        wrong.setdefault("issuer", _URL)
    if trust.kind == TrustKind.AWS and trust.issuer not in AWS_ISSUERS:
        wrong["issuer"] = f"The issuer is {AWS_ISSUER}, in China {AWS_CHINA_ISSUER}, in GovCloud {AWS_GOVCLOUD_ISSUER}."
    if trust.jwks_url and trust.kind != TrustKind.JWT:
        wrong["jwks_url"] = "Only JWTs have keys there; leave it empty."
    elif trust.jwks_url and not is_fetchable(trust.jwks_url):
        wrong.setdefault("jwks_url", _URL)
    wrong |= _wrong_metadata(trust)
    if wrong:
        raise ValidationError(wrong)


def check_anchors(trust: OidcTrust, rules: Iterable[Sequence[str]]) -> None:
    """STS vouches for all of its partition: a rule must say exactly whose it is. `rules` are lists of conditions.

    Raises ValidationError.
    """
    if trust.kind != TrustKind.AWS:
        return
    for conditions in rules:
        if not any(line.startswith(_ANCHORS) for line in conditions):
            problem = f"{' and '.join(conditions)[:100]!r} is true in anybody's account. Add `account = …`."
            raise ValidationError({"rules": problem})


def _wrong_metadata(trust: OidcTrust) -> dict[str, str]:
    if trust.kind != TrustKind.SAML:
        has_any = bool(trust.metadata or trust.metadata_url)
        return {"metadata": "Only SAML has metadata; leave both fields empty."} if has_any else {}
    if bool(trust.metadata) == bool(trust.metadata_url):
        return {"metadata": "Paste the provider's metadata, or give their URL."}
    if trust.metadata_url:
        return {} if is_fetchable(trust.metadata_url) else {"metadata_url": _URL}
    try:
        read_saml(trust)
    except BadDocument as error:
        return {"metadata": f"This can't be used: {error}."}
    return {}
