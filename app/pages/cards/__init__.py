"""The pages `/cards` and `/cards/{id}`: what cards can train."""
