"""The first page: one plan and its estimate."""
