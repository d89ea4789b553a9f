"""The stages that every operation passes, in the order of the data path. None of them knows a protocol.

    listener   takes connections, bounds how many wait to be let in
    identify   who is asking, and for which target: one question to the control plane
    decide     whether this operation may pass: the policy engine, cached
    approve    whether somebody has said yes, where policy wants that: held or deferred meanwhile
    forward    towards the target: order, and back-pressure both ways
    record     what was asked and what came of it, into the journal and the content
    release    towards the agent: nothing before its record is durable

Beside them: `live`, the sessions that run now; `services`, what a protocol is given to work with; `meter`, what
limits leave. Masking gets its own module between forward and record.

A protocol's own folder turns bytes into operations, drives them through the stages, and turns refusals into the
protocol's own errors.
"""

from proxyworker.gate.live import LiveSessions
from proxyworker.gate.services import Services

__all__ = ["LiveSessions", "Services"]
