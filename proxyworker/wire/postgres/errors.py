"""What can be wrong with the peer's bytes.

WireError
  MalformedMessage   a frame whose body is not what its type says
  MalformedStartup   the first packet is none of PostgreSQL's
  MalformedScram     a step of SCRAM that is none
  NotBound           SCRAM shows that the client's channel does not end here
"""

from __future__ import annotations


class WireError(Exception):
    """The peer broke the protocol. `problem` names the message and what is wrong; it quotes none of its bytes."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class MalformedMessage(WireError):
    """A frame whose body is not what its type says."""


class MalformedStartup(WireError):
    """The first packet is none of PostgreSQL's."""


class MalformedScram(WireError):
    """A step of SCRAM that is none."""


class NotBound(WireError):
    """The client's channel does not end here: somebody is in between, or has changed what was offered."""
