"""The admin of accounts. Importing it registers the pages."""

from accounts.admin import agents, people, providers, tokens, trusts

__all__ = ["agents", "people", "providers", "tokens", "trusts"]
