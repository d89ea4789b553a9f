"""Who there is: tenants, the people and agents in them, and how each proves itself.

A `Tenant` holds everything. A `User` is a person with a `Membership` (a role) in tenants; an `Agent` is what connects
to targets, by an issued `AgentToken` or by a JWT that an `OidcTrust` maps to it. `identify` finds it.
"""
