"""Sockets: listeners, TLS, upstream connections, tasks."""
