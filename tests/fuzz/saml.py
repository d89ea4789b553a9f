"""A SAML message before any library acts on it: what passes has one assertion and nothing to lead a verifier astray."""

from __future__ import annotations

from lxml import etree

from accounts.federation.saml_guard import (
    ASSERTION,
    DS,
    SIGNATURE,
    UnsafeXml,
    check_assertion,
    check_response,
    is_signed,
    parse_safely,
)
from tests.fuzz.run import fuzz

_SIGNATURE = """<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>
<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/>
<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"/><ds:Reference URI="#_a">
<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>
<ds:Transform Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/></ds:Transforms>
<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue>AA==</ds:DigestValue>
</ds:Reference></ds:SignedInfo><ds:SignatureValue>AA==</ds:SignatureValue></ds:Signature>"""
_ASSERTION = (
    '<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_a" Version="2.0">'
    f"<saml:Issuer>idp</saml:Issuer>{_SIGNATURE}<saml:Subject><saml:NameID>robot</saml:NameID></saml:Subject>"
    "</saml:Assertion>"
)
SEEDS = (
    _ASSERTION.encode(),
    f'<p:Response xmlns:p="urn:oasis:names:tc:SAML:2.0:protocol" ID="_r">{_ASSERTION}</p:Response>'.encode(),
)


def one_input(data: bytes) -> None:
    """`data` is a message, a response or an assertion alone."""
    try:
        root = parse_safely(data)
    except UnsafeXml:
        return
    for check in (check_response, check_assertion):
        try:
            check(root)
        except UnsafeXml:
            continue
        assertions = list(root.iter(ASSERTION))
        assert len(assertions) <= 1
        assert check is check_response or (assertions == [root] and is_signed(root))
        for signature in root.iter(SIGNATURE):
            signed = signature.getparent()
            assert signed is not None
            assert [one.get("URI") for one in signature.iter(f"{DS}Reference")] == [f"#{signed.get('ID')}"]
        assert not any(isinstance(node, etree._Comment | etree._ProcessingInstruction) for node in root.iter())


if __name__ == "__main__":
    fuzz(one_input)
