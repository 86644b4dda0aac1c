"""The reference step."""
