"""The table of what cards can train."""
