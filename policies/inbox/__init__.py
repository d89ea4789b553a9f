"""The web inbox: what waits for a person's yes, one page for each request, both live without a reload."""
