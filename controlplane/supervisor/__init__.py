"""Everything for one machine: `make demo` runs a whole Narrowgate from here, and the tests their servers.

Nouns: a *server* is PostgreSQL or Valkey (`embedded`); a *child* is a process that is kept running (`children`); the
*home* is the folder that holds all state, the *plan* what runs in it (`plan`). Nothing here is imported by the product.
"""
