"""The table of what GPUs can train."""
