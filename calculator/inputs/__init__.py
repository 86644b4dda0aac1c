"""The declared inputs of a request."""
