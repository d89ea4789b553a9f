"""Approvals: who has to say yes before an operation passes, what was asked, who said what, and what a yes is good for.

    flow     who is asked: stages with approvers and a quorum, expiry, escalation, break-glass (`terms`)
    request  one operation that waits for a yes, with all that its approvers see; bound by a digest (`binding`)
    vote     one person's word on a request; append-only
    grant    what a yes covers beyond the operation that was held: once, a template n times, a time window

    ask (the gate, by the link) ─► request ─► votes, counted against who may vote now (`tally`) ─► granted | rejected
                                      └─► expired, withdrawn, void

`actions` are what people do, `asking` what gates do, `settling` what time and changes elsewhere do. `access` says who
may vote and why not. What happens is told on commit by `signals`.
"""
