"""What happens to drafts, for whoever tells people. Sent inside the transaction that does it; see `approvals.signals`.

draft_moved  a draft is in another state than it `was`; `draft` says in which. One that is begun hasn't moved
"""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

draft_moved: Final = Signal()
