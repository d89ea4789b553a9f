"""What happens to requests, for whoever tells people or wakes links. Sent inside the transaction that does it.

A receiver may write rows, which are then there exactly when the change is; what reaches out waits for the commit. It
must not raise: the change would be undone. Every signal has `request` (an `ApprovalRequest`), `decided` also of
requests that nobody was asked about.

    opened       a request waits for a yes
    advanced     a stage has its quorum, and the next is asked
    escalated    more people are asked
    decided      it isn't pending any more; `request.state` and `decision_reason` say what became of it
    glass_broken somebody let it pass alone; `vote` says who and why. Sent before `decided`
    preview_asked  the worker shall find out what the operation would touch
"""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

opened: Final = Signal()
advanced: Final = Signal()
escalated: Final = Signal()
decided: Final = Signal()
glass_broken: Final = Signal()
preview_asked: Final = Signal()
