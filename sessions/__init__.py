"""Sessions of agents on targets: the control plane's end of the link, and the record's index.

A worker asks over its link (`link`) for a session: `opening` authenticates the agent, asks the policy and gives a grant
or a refusal. What happens in the session arrives as journal records: `ingest` keeps them as `JournalBatch`es, which are
the truth, and indexes them as `AgentSession` and `Operation` rows, which are what people search.
"""
