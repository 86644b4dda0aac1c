"""The pages `/cards` and `/cards/{id}`: what GPUs can train."""
