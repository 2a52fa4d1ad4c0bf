"""Shared-memory rings with events between domains, and what it takes to have them. Knows nothing of Erlang."""
