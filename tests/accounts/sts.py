"""AWS STS on loopback: verifies signatures of version 4 as documented, and answers GetCallerIdentity as documented."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
HOST = "sts.eu-central-1.amazonaws.com"
ACCOUNT = "123456789012"
ROLE_ARN = f"arn:aws:sts::{ACCOUNT}:assumed-role/deployer/build-7"
ANSWER = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>{arn}</Arn>
    <UserId>{user_id}</UserId>
    <Account>{account}</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>"""
DENIED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
  <Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>"""


@dataclass(slots=True)
class Caller:
    """Whose key it is."""

    key_id: str = "ASIAEXAMPLE000000001"
    secret: str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    arn: str = ROLE_ARN
    user_id: str = "AROAEXAMPLE000000001:build-7"
    account: str = ACCOUNT


@dataclass(slots=True)
class Sts:
    """`answer` replaces the sound one. `asked` has the body and the headers of each request."""

    url: str
    callers: dict[str, Caller] = field(default_factory=dict)
    answer: bytes | None = None
    status: int = 200
    asked: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)


def signature_of(secret: str, headers: Mapping[str, str], signed: str, scope: str, body: bytes) -> str:
    """AWS General Reference, "Create a signed AWS API request": POST of / without a query."""
    canonical = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed.split(";"))
    request = f"POST\n/\n\n{canonical}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def signed_headers(
    caller: Caller, *, at: datetime, audience: str | None, host: str = HOST, body: bytes = BODY, unsigned: str = ""
) -> dict[str, str]:
    """A GetCallerIdentity as an SDK signs it. `unsigned`: a header that is there and isn't signed."""
    headers = {
        "host": host,
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "x-amz-date": at.strftime("%Y%m%dT%H%M%SZ"),
        "x-amz-security-token": "IQoJb3JpZ2luX2VjEXAMPLE",
        **({} if audience is None else {"x-narrowgate-audience": audience}),
    }
    region = "us-east-1" if host == "sts.amazonaws.com" else host.split(".")[1]
    scope = f"{at:%Y%m%d}/{region}/sts/aws4_request"
    signed = ";".join(sorted(set(headers) - {unsigned}))
    signature = signature_of(caller.secret, headers, signed, scope, body)
    credential = f"AWS4-HMAC-SHA256 Credential={caller.key_id}/{scope}"
    return {**headers, "authorization": f"{credential}, SignedHeaders={signed}, Signature={signature}"}


@contextmanager
def running_sts() -> Iterator[Sts]:
    """STS that knows the usual caller."""
    sts = Sts(url="")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(sts))
    sts.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield sts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(sts: Sts) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sts.asked.append((body, headers))
            status, answer = _answer(sts, body, headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

    return Handler


def _answer(sts: Sts, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    if sts.answer is not None or sts.status != 200:
        return sts.status, sts.answer or b""
    parts = dict(part.split("=", 1) for part in headers["authorization"].split(" ", 1)[1].replace(" ", "").split(","))
    key_id, _, scope = parts["Credential"].partition("/")
    caller = sts.callers.get(key_id)
    if caller is None or parts["Signature"] != signature_of(
        caller.secret, headers, parts["SignedHeaders"], scope, body
    ):
        return 403, DENIED.encode()
    assert dict(parse_qsl(body.decode())) == {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    return 200, ANSWER.format(arn=caller.arn, user_id=caller.user_id, account=caller.account).encode()
