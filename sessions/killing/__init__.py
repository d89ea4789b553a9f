"""The kill switch: a session, an agent, a target or a whole tenant is stopped now, in the data path.

    kill → order, sessions marked → (commit) → links woken → Revoke → the worker ends them → its record says when

An order about an agent, a target or a tenant holds until somebody lifts it: as long, no session of theirs opens. How
long it took until the last session was dead is told by the workers' records, so it is measured, not estimated.
"""
