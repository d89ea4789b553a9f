"""A SAML identity provider of our own: real XML, real signatures by xmlsec, as honest or as hostile as a test wants."""

from __future__ import annotations

import base64
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from onelogin.saml2.constants import OneLogin_Saml2_Constants as Constants
from onelogin.saml2.utils import OneLogin_Saml2_Utils as Utils

from accounts.federation.keys import make_saml_key
from accounts.federation.saml_guard import ASSERTION, DS, SAML, SAMLP, SIGNATURE

#: Its stubs leave most of it out.
xmlsec: Any = import_module("xmlsec")

ENTITY_ID = "https://idp.acme.example/saml"
SSO_URL = "https://idp.acme.example/sso"
SLO_URL = "https://idp.acme.example/slo"
EMAIL_FORMAT = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress"


def instant(seconds: float) -> str:
    """So many seconds from now, as SAML writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Idp:
    """Its key and certificate."""

    key: str
    certificate: str
    entity_id: str = ENTITY_ID
    sso_url: str = SSO_URL
    slo_url: str = SLO_URL

    @property
    def certificate_base64(self) -> str:
        """As metadata has it."""
        der = x509.load_pem_x509_certificate(self.certificate.encode()).public_bytes(Encoding.DER)
        return base64.b64encode(der).decode()

    def metadata(self) -> str:
        """What is pasted into Narrowgate."""
        redirect = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
        return f"""<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{self.entity_id}">
          <md:IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">
            <md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:X509Data>
              <ds:X509Certificate>{self.certificate_base64}</ds:X509Certificate>
            </ds:X509Data></ds:KeyInfo></md:KeyDescriptor>
            <md:SingleLogoutService Binding="{redirect}" Location="{self.slo_url}"/>
            <md:SingleSignOnService Binding="{redirect}" Location="{self.sso_url}"/>
          </md:IDPSSODescriptor>
        </md:EntityDescriptor>"""

    def response(self, *, site: str, request_id: str, **said: Any) -> etree._Element:
        """An unsigned response for the provider of ours under `site`, with what `said` changes."""
        values = {
            "destination": f"{site}acs/", "recipient": f"{site}acs/", "audience": f"{site}metadata/",
            "issuer": self.entity_id,
            "name_id": "ada@acme.example", "format": EMAIL_FORMAT, "email": "ada@acme.example", "groups": ["staff"],
            "begins": instant(-60), "ends": instant(300), "confirmed_until": instant(300), "in_response_to": request_id,
            "response_id": f"_{uuid4().hex}", "assertion_id": f"_{uuid4().hex}", "status": "Success", **said,
        }  # fmt: skip
        asked = f'InResponseTo="{values["in_response_to"]}"' if values["in_response_to"] else ""
        destination = f'Destination="{values["destination"]}"' if values["destination"] else ""
        audience = f"<saml:Audience>{values['audience']}</saml:Audience>"
        restriction = f"<saml:AudienceRestriction>{audience}</saml:AudienceRestriction>" if values["audience"] else ""
        groups = "".join(f"<saml:AttributeValue>{group}</saml:AttributeValue>" for group in values["groups"])
        return etree.fromstring(f"""<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"
            xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="{values["response_id"]}" Version="2.0"
            IssueInstant="{instant(0)}" {destination} {asked}><saml:Issuer>{values["issuer"]}</saml:Issuer>
          <samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:{values["status"]}"/></samlp:Status>
          <saml:Assertion ID="{values["assertion_id"]}" Version="2.0" IssueInstant="{instant(0)}">
            <saml:Issuer>{values["issuer"]}</saml:Issuer>
            <saml:Subject><saml:NameID Format="{values["format"]}">{values["name_id"]}</saml:NameID>
              <saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData
                NotOnOrAfter="{values["confirmed_until"]}" Recipient="{values["recipient"]}" {asked}/>
              </saml:SubjectConfirmation></saml:Subject>
            <saml:Conditions NotBefore="{values["begins"]}" NotOnOrAfter="{values["ends"]}">
              {restriction}</saml:Conditions>
            <saml:AuthnStatement AuthnInstant="{instant(0)}" SessionIndex="_s1"><saml:AuthnContext>
              <saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef>
            </saml:AuthnContext></saml:AuthnStatement>
            <saml:AttributeStatement>
              <saml:Attribute Name="email"><saml:AttributeValue>{values["email"]}</saml:AttributeValue></saml:Attribute>
              <saml:Attribute Name="groups">{groups}</saml:Attribute>
            </saml:AttributeStatement>
          </saml:Assertion></samlp:Response>""")

    def sign(
        self,
        element: etree._Element,
        *,
        transforms: tuple[str, ...] = ("ENVELOPED", "EXCL_C14N"),
        method: str = "RSA_SHA256",
        digest: str = "SHA256",
    ) -> None:
        """Put an enveloped signature after the element's Issuer."""
        xmlsec.tree.add_ids(element, ["ID"])
        signature = xmlsec.template.create(
            element, xmlsec.Transform.EXCL_C14N, getattr(xmlsec.Transform, method), ns="ds"
        )
        element.insert(1, signature)
        reference = xmlsec.template.add_reference(
            signature, getattr(xmlsec.Transform, digest), uri=f"#{element.get('ID')}"
        )
        for transform in transforms:
            xmlsec.template.add_transform(reference, getattr(xmlsec.Transform, transform))
        context = xmlsec.SignatureContext()
        context.key = xmlsec.Key.from_memory(self.key, xmlsec.KeyFormat.PEM)
        context.sign(signature)

    def logout_query(self, *, site: str, name_id: str, session_index: str = "_s1") -> dict[str, str]:
        """A signed LogoutRequest by HTTP-Redirect."""
        xml = f"""<samlp:LogoutRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"
            xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_{uuid4().hex}" Version="2.0"
            IssueInstant="{instant(0)}" Destination="{site}logout/" NotOnOrAfter="{instant(60)}">
          <saml:Issuer>{self.entity_id}</saml:Issuer><saml:NameID>{name_id}</saml:NameID>
          <samlp:SessionIndex>{session_index}</samlp:SessionIndex></samlp:LogoutRequest>"""
        return self._signed_query({"SAMLRequest": Utils.deflate_and_base64_encode(xml)})

    def logout_answer_query(self, *, site: str, request_id: str, relay_state: str = "") -> dict[str, str]:
        """A signed LogoutResponse by HTTP-Redirect."""
        xml = f"""<samlp:LogoutResponse xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"
            xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_{uuid4().hex}" Version="2.0"
            IssueInstant="{instant(0)}" Destination="{site}logout/" InResponseTo="{request_id}">
          <saml:Issuer>{self.entity_id}</saml:Issuer><samlp:Status>
            <samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>
        </samlp:LogoutResponse>"""
        kept = {"RelayState": relay_state} if relay_state else {}
        return self._signed_query({"SAMLResponse": Utils.deflate_and_base64_encode(xml), **kept})

    def _signed_query(self, query: dict[str, str]) -> dict[str, str]:
        """The query with the signature of SAML bindings, 3.4.4.1."""
        query = {**query, "SigAlg": Constants.RSA_SHA256}
        signature = Utils.sign_binary(urlencode(query), self.key, xmlsec.Transform.RSA_SHA256)
        return {**query, "Signature": base64.b64encode(signature).decode()}


def make_idp(**fields: str) -> Idp:
    """With a new key."""
    key, certificate = make_saml_key("test idp")
    return Idp(key=key, certificate=certificate, **fields)


def encode(root: etree._Element | bytes) -> str:
    """As the POST has it."""
    return base64.b64encode(root if isinstance(root, bytes) else etree.tostring(root)).decode()


def encrypt_assertion(root: etree._Element, certificate: str, *, method: str = "AES256") -> None:
    """Put the assertion into an EncryptedAssertion, for the owner of this certificate."""
    manager = xmlsec.KeysManager()
    manager.add_key(xmlsec.Key.from_memory(certificate, xmlsec.KeyFormat.CERT_PEM))
    assertion = root.find(ASSERTION)
    wrapper = etree.SubElement(root, f"{SAML}EncryptedAssertion")
    template = xmlsec.template.encrypted_data_create(
        root, getattr(xmlsec.Transform, method), type=xmlsec.EncryptionType.ELEMENT, ns="xenc"
    )
    xmlsec.template.encrypted_data_ensure_cipher_value(template)
    info = xmlsec.template.encrypted_data_ensure_key_info(template, ns="ds")
    key = xmlsec.template.add_encrypted_key(info, xmlsec.Transform.RSA_OAEP)
    xmlsec.template.encrypted_data_ensure_cipher_value(key)
    context = xmlsec.EncryptionContext(manager)
    context.key = xmlsec.Key.generate(xmlsec.KeyData.AES, 256, xmlsec.KeyDataType.SESSION)
    data = context.encrypt_xml(template, assertion)
    data.getparent().remove(data)
    wrapper.append(data)


def _evil(signed: etree._Element) -> etree._Element:
    """A copy that names somebody else, under another ID and without a signature."""
    evil = deepcopy(signed)
    evil.set("ID", "_evil")
    signature = evil.find(SIGNATURE)
    if signature is not None:
        evil.remove(signature)
    for node in evil.iter(f"{SAML}NameID"):
        node.text = "owner@acme.example"
    return evil


def wrapped(root: etree._Element, kind: int) -> etree._Element:
    """The signature-wrapping attacks of "On Breaking SAML", numbered as in SAML Raider. 1, 2: of a signed response."""
    if kind in {1, 2}:
        evil = _evil(root)
        for node in evil.iter(ASSERTION):
            node.set("ID", "_evil_assertion")
        original = deepcopy(root)
        signature = original.find(SIGNATURE)
        assert signature is not None
        original.remove(signature)
        evil.insert(1, signature)
        if kind == 1:
            signature.append(original)
        else:
            evil.insert(1, original)
        return evil
    assertion = root.find(ASSERTION)
    assert assertion is not None
    evil, signature = _evil(assertion), assertion.find(SIGNATURE)
    match kind:
        case 3:
            root.insert(root.index(assertion), evil)
        case 4:
            root.replace(assertion, evil)
            evil.append(assertion)
        case 5:
            assertion.remove(signature)
            evil.insert(1, signature)
            root.replace(assertion, evil)
            root.append(assertion)
        case 6:
            assertion.remove(signature)
            evil.insert(1, signature)
            root.replace(assertion, evil)
            signature.append(assertion)
        case 7:
            extensions = etree.Element(f"{SAMLP}Extensions")
            root.insert(1, extensions)
            extensions.append(evil)
        case 8:
            assertion.remove(signature)
            evil.insert(1, signature)
            root.replace(assertion, evil)
            etree.SubElement(signature, f"{DS}Object").append(assertion)
    return root
