"""What a policy would change, told by what agents really did.

    Simulation   a document (a draft's, as a rule) replayed over the operations of a period, beside what applies now
    Suggestion   the smallest policy that would have allowed what an agent did in a period

Both are rows that a background task fills in: `waiting`, `running` with `percent`, then `done` or `failed`. The record
belongs to `sessions`, which this package knows nothing of: `sessions.replaying` feeds `comparing` and `suggesting`,
which are pure.
"""
