"""The proxy worker: the process in the data path.

It has no database and imports no Django model; all it knows comes over its link to the control plane.

    contract.py   what passes over the link and into the journal; the one definition, used by both ends
    wire/         sans-IO codecs, bytes to messages and back
    gate/         the stages every operation passes, one module each, none of which knows a protocol
    net/          listeners, TLS, upstream connections, tasks, sibling processes
    journal/      the write-ahead record on disk, and its shipping
    link.py       the one outbound WebSocket to the control plane;  identity.py: the key that it signs on with
    worker.py     a process, put together from its configuration (config.py)
    processes.py  the parent of several;  adoption.py: what those left that are no more
    postgres/     the PostgreSQL protocol: how its messages become operations and pass the stages

The data path, in order: listener, identify, decide, forward, record, release.
"""
