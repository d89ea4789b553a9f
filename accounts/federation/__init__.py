"""How people are vouched for: a tenant's identity providers (OIDC, SAML), and what they say of a person.

    start → provider → callback → verified claims (`Person`) → `actions.admit` → a role in that tenant alone

A provider speaks for its tenant and for no other: whoever it vouches for acts in that tenant only, whatever roles the
same address has elsewhere. `accounts.signin` holds the sessions that follow.
"""
