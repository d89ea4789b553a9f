"""The admin of accounts. Importing it registers the pages."""

from accounts.admin import agents, clients, directories, people, providers, tokens, trusts

__all__ = ["agents", "clients", "directories", "people", "providers", "tokens", "trusts"]
