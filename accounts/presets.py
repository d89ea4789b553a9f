"""What is known of well-known providers of tokens for machines: a start for a trust, to be completed by a person.

`{…}` in a text is for the person to fill in. docs/identity.md says what is pasted on the provider's side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from accounts.models import SigningAlgorithm, TrustKind
from accounts.trust_checks import AWS_CHINA_ISSUER, AWS_GOVCLOUD_ISSUER, AWS_ISSUER


@dataclass(frozen=True, slots=True)
class Preset:
    """How a provider's trust usually looks. `conditions` are of its first rule."""

    slug: str
    title: str
    issuer: str
    conditions: tuple[str, ...]
    kind: TrustKind = TrustKind.JWT
    audience: str = "narrowgate"
    algorithms: tuple[SigningAlgorithm, ...] = (SigningAlgorithm.RS256,)
    person_claim: str = ""
    groups_claim: str = ""
    label_claims: tuple[str, ...] = ()
    hint: str = ""


PRESETS: Final[tuple[Preset, ...]] = (
    Preset(
        slug="github-actions",
        title="GitHub Actions",
        issuer="https://token.actions.githubusercontent.com",
        conditions=("repository_id = {repository id}", "ref = refs/heads/main"),
        label_claims=("repository", "ref", "sha", "workflow_ref", "actor", "run_id"),
        hint="The repository's id, unlike its name, can't be taken over by somebody else.",
    ),
    Preset(
        slug="gitlab-ci",
        title="GitLab CI",
        issuer="https://gitlab.com",
        conditions=("project_id = {project id}", "ref_protected = true"),
        groups_claim="groups_direct",
        label_claims=("project_path", "ref", "sha", "pipeline_id", "user_login"),
        hint="For a GitLab of your own the issuer is its URL.",
    ),
    Preset(
        slug="kubernetes",
        title="Kubernetes service accounts",
        issuer="{the cluster's --service-account-issuer}",
        conditions=("/kubernetes.io/namespace = {namespace}", "/kubernetes.io/serviceaccount/name = {service account}"),
        label_claims=("/kubernetes.io/namespace", "/kubernetes.io/pod/name", "/kubernetes.io/node/name"),
        hint="Name the JWKS URL too when the issuer's discovery document can't be reached from here.",
    ),
    Preset(
        slug="entra-id",
        title="Microsoft Entra ID",
        issuer="https://login.microsoftonline.com/{tenant id}/v2.0",
        audience="{application id of the API registered for Narrowgate}",
        conditions=("azp = {client id of the agent's application}", "tid = {tenant id}"),
        groups_claim="roles",
        label_claims=("oid", "azp"),
        hint="The API's manifest must say requestedAccessTokenVersion 2; a token of version 1 has another issuer.",
    ),
    Preset(
        slug="google",
        title="Google",
        issuer="https://accounts.google.com",
        conditions=("sub = {unique id of the service account}", "email_verified = true"),
        label_claims=("email",),
        hint="The unique id, unlike the address, is never given to another account.",
    ),
    Preset(
        slug="keycloak",
        title="Keycloak",
        issuer="https://{host}/realms/{realm}",
        conditions=("azp = {client id}",),
        groups_claim="/realm_access/roles",
        label_claims=("azp",),
        hint="The client needs an audience mapper that adds the audience.",
    ),
    Preset(
        slug="okta",
        title="Okta",
        issuer="https://{your domain}.okta.com/oauth2/{authorization server id}",
        conditions=("cid = {client id}",),
        groups_claim="groups",
        label_claims=("cid",),
        hint="A custom authorization server: tokens of the organization's own one can't be verified by others.",
    ),
    Preset(
        slug="aws-iam",
        title="AWS IAM (outbound identity federation)",
        issuer="https://{id}.tokens.sts.global.api.aws",
        conditions=(
            "sub = arn:aws:iam::{account}:role/{role}",
            "/https:~1~1sts.amazonaws.com~1/aws_account = {account}",
        ),
        algorithms=(SigningAlgorithm.RS256, SigningAlgorithm.ES384),
        label_claims=(
            "/https:~1~1sts.amazonaws.com~1/aws_account",
            "/https:~1~1sts.amazonaws.com~1/source_region",
            "/https:~1~1sts.amazonaws.com~1/lambda_source_function_arn",
        ),
        hint="The issuer is shown under IAM, Account settings, once outbound federation is enabled.",
    ),
    Preset(
        slug="aws-caller-identity",
        title="AWS IAM (signed GetCallerIdentity)",
        kind=TrustKind.AWS,
        issuer=AWS_ISSUER,
        audience="{a name of yours, such as narrowgate.example.com}",
        conditions=("account = {account}", "role = {role}"),
        label_claims=("arn", "session"),
        hint="Choose an audience that is yours alone: what is signed for it must be good for nothing else. "
        f"In China the issuer is {AWS_CHINA_ISSUER}, in GovCloud {AWS_GOVCLOUD_ISSUER}.",
    ),
    Preset(
        slug="saml",
        title="SAML 2.0 assertions",
        kind=TrustKind.SAML,
        issuer="{entity ID}",
        audience="{audience of its assertions for Narrowgate}",
        conditions=("sub = {NameID}",),
        groups_claim="groups",
        label_claims=("sub",),
        hint="Give the URL of the metadata, or paste them. Assertions are exchanged at the token endpoint.",
    ),
)
BY_SLUG: Final = {preset.slug: preset for preset in PRESETS}
