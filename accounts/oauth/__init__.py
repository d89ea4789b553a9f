"""The token endpoint: what an agent can prove becomes a short-lived token of ours, narrowed to targets.

    bounds → client authentication → subject (and actor) → narrowing → token, database login, or SSH certificate

`wire` reads requests and says errors as the RFCs want them, `clients` authenticates clients, `exchange` decides what is
issued, `actions` writes it, `views` are the endpoints.
"""
