"""Limits over periods: how much of a rule's limit is used, counted across all workers.

    worker ─ReserveBudget─► actions.reserve ─► counters (one atomic script) ─► BudgetLease

What a limit allows is a *budget*: one for each rule and for each of those who don't share it. Workers lease parts of it
and use them up without asking, so an operation costs no round trip; what they report is *spent*, what they have leased
beyond that is *held*, and both together never exceed the limit. A lease that isn't renewed lapses: a dead worker's
unused part is there again after `counters.LEASE_SECONDS`. The counters are in Redis; without it nothing is leased.
"""
