"""Django's PostgreSQL backend (`base`), which holds each statement to the active scope."""
