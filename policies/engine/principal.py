"""Who asks."""

from __future__ import annotations

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `name` is unique within the tenant."""

    id: str
    name: str
    groups: tuple[str, ...] = ()
    #: How it proved itself: "issued_token" or "oidc".
    authenticated_by: str = ""
    #: The person on whose behalf the agent acts, where known: an e-mail address, or what their provider calls them.
    on_behalf_of: str = ""
    #: Who handed the task on, hop by hop, the nearest first: the name of an agent of the tenant, or `actor:` and what
    #: its provider calls it.
    actors: tuple[str, ...] = ()
    #: What else its provider said of it and the tenant wants kept, such as its repository.
    labels: dict[str, str] = {}
    #: The e-mail address of the person who answers for the agent.
    sponsor: str = ""
