"""What a SAML message must look like before python3-saml, and the XML libraries under it, see it (pure; lxml only).

xmlsec runs the transforms that a signature names, XSLT among them, before it checks that signature; libxml2 expands
entities; and a verifier and a reader that find "the assertion" in two ways can be shown two of them. So a message is
taken only in the one form that honest providers send:

- at most `MAX_MESSAGE_BYTES` of UTF-8, no DTD, no entity, no comment, no processing instruction; every ID once;
- a Response with exactly one Assertion (or EncryptedAssertion) in it, as its child, and none anywhere else;
- signatures only as children of these two, one each, of exactly that element, over enveloped-signature and exclusive
  canonicalisation, by RSA or ECDSA with SHA-2, without an Object;
- encryption by a key beside the data, RSA-OAEP and AES, without references.

With one assertion, in one place, under a signature that covers it whole, there is nothing to wrap (XSW 1 to 8). At the
token endpoint an assertion comes alone, as the root: the same rules, and nothing encrypted.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator
from typing import Final

from lxml import etree

#: A response with some hundred groups is some 30 KB.
MAX_MESSAGE_BYTES: Final = 256 * 1024
#: Honest messages have some hundred elements; libxml2's own bound on depth is 256.
MAX_ELEMENTS: Final = 5_000

SAMLP: Final = "{urn:oasis:names:tc:SAML:2.0:protocol}"
SAML: Final = "{urn:oasis:names:tc:SAML:2.0:assertion}"
DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
XENC: Final = "{http://www.w3.org/2001/04/xmlenc#}"

RESPONSE: Final = f"{SAMLP}Response"
ASSERTION: Final = f"{SAML}Assertion"
ENCRYPTED_ASSERTION: Final = f"{SAML}EncryptedAssertion"
SIGNATURE: Final = f"{DS}Signature"
_SUBJECTS: Final = frozenset({ASSERTION, ENCRYPTED_ASSERTION, RESPONSE})

_EXCLUSIVE: Final = "http://www.w3.org/2001/10/xml-exc-c14n#"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_MORE: Final = "http://www.w3.org/2001/04/xmldsig-more#"
_ENC: Final = "http://www.w3.org/2001/04/xmlenc#"
_ENC11: Final = "http://www.w3.org/2009/xmlenc11#"
SIGNATURE_METHODS: Final = frozenset(
    _MORE + name for name in ("rsa-sha256", "rsa-sha384", "rsa-sha512", "ecdsa-sha256", "ecdsa-sha384", "ecdsa-sha512")
)
DIGEST_METHODS: Final = frozenset({f"{_ENC}sha256", f"{_MORE}sha384", f"{_ENC}sha512"})
ENCRYPTION_METHODS: Final = frozenset(
    {
        *(f"{_ENC}aes{bits}-cbc" for bits in (128, 192, 256)),
        *(f"{_ENC11}aes{bits}-gcm" for bits in (128, 192, 256)),
        f"{_ENC}rsa-oaep-mgf1p",
        f"{_ENC11}rsa-oaep",
    }
)
_ID_NAMES: Final = frozenset({"id", "{http://www.w3.org/xml/1998/namespace}id"})
#: What could lead a verifier elsewhere: other documents, other keys, a second content.
_NEVER: Final = frozenset(
    {
        *(f"{DS}{name}" for name in ("Object", "Manifest", "RetrievalMethod", "KeyValue")),
        *(f"{XENC}{name}" for name in ("CipherReference", "ReferenceList")),
    }
)


class UnsafeXml(ValueError):
    """A message in another form than the one that is taken. Says which rule it breaks and quotes nothing of it."""


def decode_message(text: str, *, is_deflated: bool = False) -> bytes:
    """The XML in a POST's parameter, or in a redirect's, which is deflated too (SAML bindings, 3.4 and 3.5)."""
    if len(text) > MAX_MESSAGE_BYTES * 4 // 3 + 4 or not text.isascii():
        raise UnsafeXml("it is too long")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        if not is_deflated:
            return data
        inflater = zlib.decompressobj(wbits=-15)
        data = inflater.decompress(data, MAX_MESSAGE_BYTES + 1)
    except (binascii.Error, zlib.error):
        raise UnsafeXml("it is no base64, or not deflated") from None
    if len(data) > MAX_MESSAGE_BYTES:
        raise UnsafeXml("it is too long")
    return data


def parse_safely(data: bytes) -> etree._Element:
    """The root of a plain document: elements, attributes and text, and nothing that refers elsewhere."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise UnsafeXml("it is too long")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UnsafeXml("it isn't UTF-8") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text or "\0" in text:
        raise UnsafeXml("it has a DTD")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, encoding="utf-8"
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise UnsafeXml("it is no well-formed XML") from None
    tree = root.getroottree()
    if tree.docinfo.internalDTD is not None or tree.docinfo.externalDTD is not None:
        raise UnsafeXml("it has a DTD")
    if root.getprevious() is not None or root.getnext() is not None:
        raise UnsafeXml("it has something beside its root")
    for count, node in enumerate(root.iter(), start=1):
        if not isinstance(node.tag, str):
            raise UnsafeXml("it has a comment, an entity or a processing instruction")
        if count > MAX_ELEMENTS:
            raise UnsafeXml("it has too many elements")
    return root


def check_response(root: etree._Element) -> None:
    """A Response as python3-saml may see it, before and again after decryption. Raises `UnsafeXml`."""
    _require(root.tag == RESPONSE, "it is no Response")
    subjects = [node for node in root.iter() if node.tag in {ASSERTION, ENCRYPTED_ASSERTION}]
    _require(len(subjects) == 1 and subjects[0].getparent() is root, "it holds not exactly one assertion")
    _require(sum(1 for node in root.iter() if node.tag == RESPONSE) == 1, "it holds another Response")
    _check_ids_and_signatures(root)
    for node in root.iter(f"{XENC}EncryptionMethod"):
        _require(node.get("Algorithm") in ENCRYPTION_METHODS, "its encryption isn't one that is taken")
    inside = subjects[0] if subjects[0].tag == ENCRYPTED_ASSERTION else None
    for node in root.iter(f"{XENC}EncryptedData", f"{XENC}EncryptedKey"):
        _require(
            inside is not None and inside in node.iterancestors(), "something else than the assertion is encrypted"
        )


def check_assertion(root: etree._Element) -> None:
    """An Assertion that comes alone, signed, before it is put into a Response of ours. Raises `UnsafeXml`."""
    _require(root.tag == ASSERTION, "it is no Assertion")
    inner = (node for node in root.iter() if node is not root)
    _require(not any(node.tag in _SUBJECTS for node in inner), "it holds another assertion or a Response")
    _require(not any(str(node.tag).startswith(XENC) for node in root.iter()), "something in it is encrypted")
    _check_ids_and_signatures(root)
    _require(is_signed(root), "it is not signed")


def _check_ids_and_signatures(root: etree._Element) -> None:
    ids = [value for node in root.iter() for name, value in node.attrib.items() if str(name).lower() in _ID_NAMES]
    _require(len(ids) == len(set(ids)), "an ID is there twice")
    _require(not any(node.tag in _NEVER for node in root.iter()), "it has an element that is never taken")
    for signature in root.iter(SIGNATURE):
        _check_signature(signature, root=root)


def is_signed(element: etree._Element) -> bool:
    """True when it has a signature of its own (which says nothing of whose)."""
    return element.find(SIGNATURE) is not None


def _check_signature(signature: etree._Element, *, root: etree._Element) -> None:
    signed = signature.getparent()
    _require(signed is not None and (signed is root or signed.tag == ASSERTION), "a signature is where none belongs")
    assert signed is not None  # noqa: S101  # for the type checker; required just above
    _require(len(signed.findall(SIGNATURE)) == 1, "an element has two signatures")
    references = list(signature.iter(f"{DS}Reference"))
    _require(len(references) == 1, "a signature covers not exactly one element")
    identifier = signed.get("ID")
    _require(bool(identifier) and references[0].get("URI") == f"#{identifier}", "a signature covers another element")
    transforms = list(signature.iter(f"{DS}Transform"))
    named = sorted(node.get("Algorithm", "") for node in transforms)
    _require(named == sorted((_ENVELOPED, _EXCLUSIVE)), "a signature names other transforms")
    _require(not any(map(_has_content, transforms)), "a transform has content")
    for tag, allowed in (
        ("CanonicalizationMethod", frozenset({_EXCLUSIVE})),
        ("SignatureMethod", SIGNATURE_METHODS),
        ("DigestMethod", DIGEST_METHODS),
    ):
        methods = list(_algorithms(signature, tag))
        _require(len(methods) == 1 and methods[0] in allowed, f"a signature's {tag} isn't one that is taken")


def _algorithms(signature: etree._Element, tag: str) -> Iterator[str | None]:
    for node in signature.iter(f"{DS}{tag}"):
        yield node.get("Algorithm")


def _has_content(transform: etree._Element) -> bool:
    """Exclusive canonicalisation may list prefixes; nothing else has parameters here."""
    return any(child.tag != f"{{{_EXCLUSIVE}}}InclusiveNamespaces" for child in transform)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise UnsafeXml(problem)
