"""The PostgreSQL frontend/backend protocol 3.0 and 3.2, sans-IO.

    scan      finds frames in a buffer;  gather: frames that come in several reads
    startup   what a client says before it is in: TLS and GSS requests, the startup message, cancel requests
    frontend  messages from the client: parsed; and the few that we send to a target, built
    scram     the server's half of SCRAM-SHA-256, by which a client proves a password without sending it
    backend   messages from the server: built for the client, parsed from the target

Section names in comments are those of the PostgreSQL documentation, chapter "Frontend/Backend Protocol".
"""
