"""The PostgreSQL gate: its messages become operations and pass the stages.

front_door   encryption: TLS asked for, TLS at once, GSS declined; cancel requests
login        startup message, credential, grant, target; then the session
scram        a client proves the password of a database login
session      a running session, put together of:
  agent_stream   agent → target;  holding: what waits for an approval
  target_stream  target → agent;  cuts: statements that come to a limit
  ways_out       both ways out, behind the records
  ending         whatever ends it;  course: how far it has come
settings     those that a startup message brings along
requests     the agent's messages: which operation, what they mean for names
pipeline     the target's messages: which operation they answer
understand   what a statement's text means;  names: prepared statements and portals
held         an operation that waits for an approval;  preview, counting: what it would touch
upstream     a connection to a target;  keys: the cancel keys that agents hold
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from proxyworker.gate.listener import Listener
from proxyworker.net.binding import server_end_point
from proxyworker.postgres.front_door import ALPN
from proxyworker.postgres.login import Login

if TYPE_CHECKING:
    from proxyworker.gate.services import Services

__all__ = ["serve"]


async def serve(*, listen: tuple[str, int], tls: ssl.SSLContext, certificate: bytes, services: Services) -> Listener:
    """Listen for PostgreSQL clients. `certificate` is the one that `tls` shows, in DER. Raises `OSError`."""
    tls.set_alpn_protocols([ALPN])
    listener = Listener("postgres", Login(services, tls, binding=server_end_point(certificate)).admit)
    await listener.open(*listen)
    return listener
