"""The ledger: per tenant, a gapless and hash-chained list of every change of the set-up. Nothing in it ever changes.

`actions.append_entry` is called by each app's actions, in their transaction. The lowest layer: it knows no other app.
"""
