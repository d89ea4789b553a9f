"""What can go wrong in a worker, outside the journal and the protocols.

WorkerError
  ConfigError          the environment says something unclear; names the variable and the fix
  IdentityError        the worker's key or its enrolment can't be used
  LinkError
    LinkUnavailable    no control plane now, or no answer in time: refuse, and try again later
    SessionRefused     the control plane said no to a session; carries its `Refused`
    UploadRefused      the control plane said no to a content segment
    BudgetRefused      the control plane leases nothing of a budget
    ApprovalRefused    the control plane takes no request for this approval
"""

from __future__ import annotations

from proxyworker.contract import Refused


class WorkerError(Exception):
    """Base of this tree."""


class ConfigError(WorkerError):
    """The environment can't be used. `variable` names what is wrong, `fix` what would be right."""

    def __init__(self, variable: str, problem: str, fix: str) -> None:
        super().__init__(f"{variable}: {problem}. {fix}")
        self.variable = variable
        self.problem = problem
        self.fix = fix


class IdentityError(WorkerError):
    """The worker can't show who it is."""


class LinkError(WorkerError):
    """Base of what a question over the link may end in."""


class LinkUnavailable(LinkError):
    """There is no control plane to ask now. Nothing is known of whether the question arrived."""


class SessionRefused(LinkError):
    """The control plane refused the session. `refused.reason` and `refused.help` may be shown to the agent."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.code.value}: {refused.reason}")
        self.refused = refused


class UploadRefused(LinkError):
    """The control plane refused a content segment."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.code.value}: {refused.reason}")
        self.refused = refused


class BudgetRefused(LinkError):
    """The control plane leases nothing. `refused.reason` may be shown to the agent."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.code.value}: {refused.reason}")
        self.refused = refused


class ApprovalRefused(LinkError):
    """The control plane takes no request for an approval. `refused.reason` may be shown to the agent."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.code.value}: {refused.reason}")
        self.refused = refused
