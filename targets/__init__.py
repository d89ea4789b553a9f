"""What the gate stands in front of: targets, the credentials for them, and the workers that reach them.

A `Target` is a system of the tenant, named as agents name it. A `Credential` is how the gate signs on there; its secret
is sealed and is opened for a session's grant only. A `ProxyWorker` is a process near the targets, known by its key; it
enrols once, with a `JoinToken`.
"""
