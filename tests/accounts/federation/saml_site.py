"""A SAML identity provider that a browser can use: pages over HTTP, a password, sign-in and single logout.

It believes our site only what is signed by the key in our metadata, as a careful provider does. What it serves is at
`localhost`, another site than 127.0.0.1 to a browser, so that cookies with SameSite behave as between two companies.
"""

from __future__ import annotations

import base64
import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from lxml import etree

from accounts.federation.saml_guard import ASSERTION, SAML, SAMLP, decode_message
from tests.accounts.federation.saml_idp import Idp, encode, make_idp

PASSWORD = "user-password"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Acme identity</title>
<style>body {{ font: 16px sans-serif; margin: 10vh auto; width: 22em }} input {{ display: block }}</style>
<h1>Acme identity</h1>{body}</html>"""


@dataclass(slots=True)
class SamlSite:
    """The provider, the groups of its people by their addresses, and where and as whom our site answers for it."""

    idp: Idp
    url: str
    people: dict[str, list[str]]
    site: str = ""
    certificate: str = ""
    signed_in: set[str] = field(default_factory=set)

    def request_in(self, query: str) -> etree._Element:
        """The message of a redirect, after its signature has been checked. Raises InvalidSignature."""
        raw = dict(pair.split("=", 1) for pair in query.split("&"))  # SAML bindings, 3.4.4.1: signed as it is encoded
        signed = "&".join(f"{name}={raw[name]}" for name in ("SAMLRequest", "RelayState", "SigAlg") if name in raw)
        key = x509.load_pem_x509_certificate(self.certificate.encode()).public_key()
        assert isinstance(key, RSAPublicKey)
        key.verify(base64.b64decode(unquote(raw["Signature"])), signed.encode(), PKCS1v15(), SHA256())
        return etree.fromstring(decode_message(unquote(raw["SAMLRequest"]), is_deflated=True))

    def sign_in_page(self, query: str) -> str:
        """Asks for name and password, for the request in the query."""
        request = self.request_in(query)
        assert request.get("AssertionConsumerServiceURL") == f"{self.site}acs/"
        return f"""<form method="post" action="/sso"><input type="hidden" name="request_id" value="{request.get("ID")}">
            <label>Address <input name="address"></label>
            <label>Password <input name="password" type="password"></label><button>Sign in</button></form>"""

    def response_page(self, address: str, request_id: str) -> str:
        """Carries the signed response to our site, by the HTTP-POST binding."""
        said = {"name_id": address, "email": address, "groups": self.people[address]}
        root = self.idp.response(site=self.site, request_id=request_id, **said)
        assertion = root.find(ASSERTION)
        assert assertion is not None
        self.idp.sign(assertion)
        self.signed_in.add(address)
        return f"""<form method="post" action="{self.site}acs/">
            <input type="hidden" name="SAMLResponse" value="{html.escape(encode(root))}">
            <button>Continue</button></form><script>document.forms[0].submit()</script>"""

    def answer_to_logout(self, query: str) -> str:
        """Ends the session that our site asks to end; where the browser goes with the answer."""
        request = self.request_in(query)
        assert request.tag == f"{SAMLP}LogoutRequest"
        self.signed_in.discard(str(request.findtext(f"{SAML}NameID")))
        relay_state = parse_qs(query).get("RelayState", [""])[0]
        answer = self.idp.logout_answer_query(
            site=self.site, request_id=str(request.get("ID")), relay_state=relay_state
        )
        return f"{self.site}logout/?{urlencode(answer)}"

    def logout_everywhere(self, address: str) -> str:
        """Ends somebody's session at the provider's wish; where the browser goes to end ours."""
        self.signed_in.discard(address)
        return f"{self.site}logout/?{urlencode(self.idp.logout_query(site=self.site, name_id=address))}"


@contextmanager
def running_saml_site(people: dict[str, list[str]]) -> Iterator[SamlSite]:
    """A provider with these people and their groups."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/sso":
                self._page(saml.sign_in_page(url.query))
            elif url.path == "/slo" and "SAMLRequest=" in url.query:
                self._go(saml.answer_to_logout(url.query))
            elif url.path == "/slo":
                self._page("<p>Every site has answered: you are signed out.</p>")
            elif url.path == "/leave":
                self._go(saml.logout_everywhere(parse_qs(url.query)["address"][0]))
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            assert form["password"] == PASSWORD
            self._page(saml.response_page(form["address"], form["request_id"]))

        def _page(self, body: str) -> None:
            text = PAGE.format(body=body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _go(self, where: str) -> None:
            self.send_response(302)
            self.send_header("Location", where)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its signature
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://localhost:{server.server_port}"
    saml = SamlSite(idp=make_idp(sso_url=f"{url}/sso", slo_url=f"{url}/slo"), url=url, people=people)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield saml
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
