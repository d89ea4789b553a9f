"""SCIM 2.0 (RFC 7643, 7644): a tenant's directory tells who its people are and which groups they are in.

`filters` reads filters, `resources` turns rows into resources and back, `actions` writes, `discovery` tells what there
is, `views` are the endpoints. A group gives the role that an owner of the tenant has set on it; a person has the
highest role of their groups.
"""
