"""Who asks."""

from __future__ import annotations

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """What is known of an agent of the tenant that handed the task on."""

    groups: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    sponsor: str = ""


#: Of whom nothing is known.
_UNKNOWN = Actor()


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
    #: The addresses of the people who issued its token, or what that was made from. Rules don't ask for it.
    issued_by: tuple[str, ...] = ()
    #: What is known of the agents among `actors`, by name.
    behind: dict[str, Actor] = {}

    def known_of(self, party: str) -> Principal | Actor:
        """What groups, labels and sponsor count for a party: each agent's own, so that none lends another its rights.

        A person, and an actor that is no agent of the tenant, are named in a rule beside what the agent itself is.
        """
        return self if party == self.name or ":" in party else self.behind.get(party, _UNKNOWN)
